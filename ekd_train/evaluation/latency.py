"""How long a prediction takes, measured."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LATENCY_BATCHES = (1, 64)
ROUNDS, FEWEST_ROUNDS = 10, 3
"""How often every network has its turn; slow ones may have fewer."""


@torch.no_grad()
def measure_latency(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    batches: Sequence[int] = LATENCY_BATCHES,
    seconds: float = 0.2,
) -> dict[str, dict[str, Any]]:
    """Milliseconds of one forward of each network at each batch size, after a warm-up.

    It measures this machine as it is at this moment, with torch's present number of threads. The networks
    take turns, so that a machine which is busier for a second is so for all of them.

    Args:
        networks: in evaluation mode, on the device of `images`.
        images: float `(b, channel, height, width)`, at least one; repeated or cut to the batch size.
        batches: batch sizes.
        seconds: about how long to time each network at each size.

    By network `latency_ms`, the median by batch size, and `latency_quartiles_ms`, the first and the third
    quartile; JSON has text keys, so sizes are texts too.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"latency_ms": {}, "latency_quartiles_ms": {}} for name in networks
    }
    for size in batches:
        for name, times in _in_turns(networks, _batch(images, size), seconds).items():
            low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
            found[name]["latency_ms"][str(size)] = 1000 * median
            found[name]["latency_quartiles_ms"][str(size)] = [1000 * low, 1000 * high]
    return found


def latency_setting(device: torch.device) -> dict[str, str | int]:
    """What `measure_latency` depends on besides the network: device, threads, version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]}


def _batch(images: Tensor, size: int) -> Tensor:
    return images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()


def _in_turns(networks: Mapping[str, nn.Module], batch: Tensor, seconds: float) -> dict[str, list[float]]:
    """Seconds of single forwards, by network."""
    for network in networks.values():
        _forward(network, batch)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for done in range(ROUNDS):
        if done >= FEWEST_ROUNDS and sum(map(sum, times.values())) >= seconds * len(networks):
            break
        for name, network in networks.items():
            times[name] += _turn(network, batch, seconds / ROUNDS)
    return times


def _turn(network: nn.Module, batch: Tensor, seconds: float) -> list[float]:
    """Forwards for about that long; the first, which finds another network in the caches, counts if slow."""
    first = _forward(network, batch)
    if first >= seconds:
        return [first]
    times = [_forward(network, batch)]
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        times.append(_forward(network, batch))
    return times


def _forward(network: nn.Module, batch: Tensor) -> float:
    """Its seconds."""
    began = time.perf_counter()
    network(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
    return time.perf_counter() - began
