"""Images a second of whole steps on a GPU, and how much of it they use, beside a plain step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.runs import TINY, Case
from benchmarks.timing import DTYPES
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.settings import Architecture
from ekd_train.training.compiled import begin_step, compile_blocks

BATCHES = (128, 256)
TIMED_STEPS, WARM_UP_STEPS = 10, 3
How = Literal["no", "blocks", "graphs"]
COMPILED: tuple[How, ...] = ("no", "blocks", "graphs")
"""As `speed.compile` says."""

WIDE = Case("WRN-28-4", Architecture(name="wide_resnet", depth=28, width=4), 32, 100, 128)
RESNET = Case("ResNet-50", Architecture(name="resnet50"), 224, 1000, 128)
MINIATURE = Case("WRN-10-1", TINY, 16, 5, 16, members=2)


@dataclass(frozen=True)
class Row:
    """One kind of step; `why_not` instead of numbers where it could not be made."""

    what: str
    batch_size: int
    compiled: How
    images_per_s: float = 0.0
    share_of_peak: float = 0.0
    """Of multiplications a second, against those of one large matrix product in the same run."""
    why_not: str = ""


def rows(device: torch.device, deadline: float, *, tiny: bool = False) -> Iterator[Row]:
    """All of them, each as soon as it is measured; without numbers after `deadline` (`time.monotonic`)."""
    peak = _matrix_product(device, 256 if tiny else 8192)
    plain = [MINIATURE] if tiny else [WIDE, RESNET]
    for case in plain:
        student = replace(
            case, name=f"{case.name} LatentBE-{case.members}", method="latent_be", perturbation="tdiv_sdiv"
        )
        for batch_size in (MINIATURE.batch_size,) if tiny else BATCHES:
            kinds: list[tuple[str, Case, Callable[[Case, torch.device, How], Callable[[], object]]]] = [
                (f"{case.name}, plain PyTorch", case, _reference),
                (f"{case.name}, a teacher's step", case, _ours),
                (f"{student.name}, TDiv-SDiv", student, _ours),
            ]
            for what, chosen, make in kinds:
                flops = 0.0  # counted where nothing is compiled: torch compiles nothing that is watched
                for compiled in COMPILED[: 2 if tiny else 3]:  # a CPU has no graphs to record
                    row = Row(what, batch_size, compiled)
                    sized = replace(chosen, batch_size=batch_size)
                    if time.monotonic() > deadline:
                        yield replace(row, why_not="no time was left")
                    else:
                        step = partial(make, sized, device, compiled)
                        row, flops = _timed(row, step, device, flops)
                        yield replace(row, share_of_peak=row.images_per_s / batch_size * flops / peak)


def _timed(
    row: Row, make: Callable[[], Callable[[], object]], device: torch.device, flops: float
) -> tuple[Row, float]:
    """The row with its images a second, and a step's operations: `flops`, or counted where that is 0."""
    try:
        step = make()
        with nullcontext() if row.compiled != "no" else FlopCounterMode(display=False) as counter:
            step()
        for _ in range(WARM_UP_STEPS):
            step()
        seconds = _seconds(step, TIMED_STEPS, device)
    except (RuntimeError, torch.OutOfMemoryError) as error:
        return replace(row, why_not=f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"), flops
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    counted = flops if counter is None else counter.get_total_flops()
    return replace(row, images_per_s=row.batch_size / seconds), counted


def _seconds(step: Callable[[], object], times: int, device: torch.device) -> float:
    """Of one step, when all are done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began = now()
    for _ in range(times):
        step()
    return (now() - began) / times


def _matrix_product(device: torch.device, size: int) -> float:
    """Operations a second of a bfloat16 product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    _seconds(lambda: a @ b, 3, device)
    return 2 * size**3 / _seconds(lambda: a @ b, 10, device)


def _ours(case: Case, device: torch.device, compiled: How) -> Callable[[], object]:
    step, batches = case.made(Workers(device=device))
    compile_blocks(step.trainee.network, compiled, device, _backend(device))
    rows = batches.of_epoch(0)
    numbers = iter(range(1 << 30))

    def one() -> object:
        begin_step(compiled, device)
        number = next(numbers)
        return step(batches.draw(number, rows[number % len(rows)]))

    return one


def _reference(case: Case, device: torch.device, compiled: How) -> Callable[[], object]:
    """As a tutorial would have it: one network, cross-entropy, SGD, on one batch that lies there."""
    network = build_network(case.run, case.spec).to(device).train()
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, nesterov=True, fused=True)
    images = torch.rand(case.batch_size, *case.spec.image_shape, device=device)
    labels = torch.arange(case.batch_size, device=device) % case.classes
    compile_blocks(network, compiled, device, _backend(device))

    def one() -> object:
        begin_step(compiled, device)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, DTYPES[case.precision]):
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return one


def _backend(device: torch.device) -> str:
    """Inductor on a GPU; elsewhere what shows that a block is one graph, in a moment."""
    return "inductor" if device.type == "cuda" else "aot_eager"
