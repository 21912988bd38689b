"""How long a prediction takes, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LATENCY_BATCHES = (1, 64)


@torch.no_grad()
def measure_latency(
    network: nn.Module, images: Tensor, batches: Sequence[int] = LATENCY_BATCHES, seconds: float = 0.2
) -> dict[str, float]:
    """Milliseconds of one forward for each batch size: the median of repeats, after a warm-up.

    It measures this machine as it is at this moment, with torch's present number of threads.

    Args:
        network: in evaluation mode, on the device of `images`.
        images: float `(b, channel, height, width)`, at least one; repeated or cut to the batch size.
        batches: batch sizes.
        seconds: about how long to measure each; at least 3 forwards are timed.

    Returns:
        Milliseconds by batch size; JSON has text keys, so these are texts too.
    """
    return {str(size): _median_ms(network, _batch(images, size), seconds) for size in batches}


def latency_setting(device: torch.device) -> dict[str, str | int]:
    """What `measure_latency` depends on besides the network: device, threads, version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]}


def _batch(images: Tensor, size: int) -> Tensor:
    return images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()


def _median_ms(network: nn.Module, batch: Tensor, seconds: float) -> float:
    if _forward(network, batch) < seconds:
        _forward(network, batch)  # a second warm-up, where it costs nothing
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 200):
        times.append(_forward(network, batch))
    return 1000 * statistics.median(times)


def _forward(network: nn.Module, batch: Tensor) -> float:
    """Its seconds."""
    began = time.perf_counter()
    network(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
    return time.perf_counter() - began
