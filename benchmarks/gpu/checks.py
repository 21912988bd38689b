"""What must hold on a GPU: the CPU's training, the same bits after a restart, no wait for the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch
import torch.multiprocessing as mp

from benchmarks.gpu.runs import TINY, Case
from benchmarks.workload import MemoryStore
from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import StudentMethod
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from ekd_train.training.speed import compute_exactly
from ekd_train.training.step_on_paper import step_on_paper
from ekd_train.workers.process_group import join, rendezvous_url

STEPS = 3
LOSS_TOLERANCE = 2e-3
"""Relative, after `STEPS` steps in float32: other orders of the same sums."""
MEMORY_TOLERANCE = 0.2

SMALL = Case("small", TINY, image_size=16, classes=5, batch_size=20, members=2, precision="float32")


@dataclass(frozen=True)
class Check:
    """One promise, whether it was kept, and what was seen; `kept` None: it could not be tried."""

    what: str
    kept: bool | None
    seen: str


def checks(device: torch.device, second: torch.device | None) -> Iterator[Check]:
    """All of them, each as soon as it is known; `second`: another device, for what needs two."""
    compute_exactly()
    for method in get_args(StudentMethod):
        # Draws of noise and directions are each device's own, so kinds without them.
        kinds = ("none", "tdiv") if method == "kd" else ("none", "tdiv", "tdiv_sdiv")
        for kind in kinds:
            yield _as_on_a_cpu(replace(SMALL, method=method, perturbation=kind), device)
    for compiled in ("blocks", "graphs"):
        for method in ("label", "latent_be"):
            yield _as_uncompiled(replace(SMALL, method=method, compile=compiled), device)
    for precision in ("float32", "bfloat16"):
        case = replace(SMALL, method="latent_be", perturbation="tdiv_sdiv", precision=precision)
        yield _waits_for_nothing(case, device)
        yield _continues_exactly(case, device)
        large = replace(
            case, image_size=32, batch_size=128, architecture=TINY.model_copy(update={"width": 4})
        )
        yield _needs_what_was_predicted(large, device)
    yield _two_workers(device, second)


def _losses(case: Case, workers: Workers) -> torch.Tensor:
    step, batches = case.made(workers)
    rows = batches.of_epoch(0)
    return torch.tensor([float(step(batches.draw(n, rows[n % len(rows)]))["loss"]) for n in range(STEPS)])


def _as_on_a_cpu(case: Case, device: torch.device) -> Check:
    ours, theirs = (_losses(case, Workers(device=place)) for place in (device, torch.device("cpu")))
    return _alike(f"{STEPS} steps of {case.method} with {case.perturbation} are the CPU's", ours, theirs)


def _as_uncompiled(case: Case, device: torch.device) -> Check:
    what = f"{STEPS} steps of {case.method} with speed.compile={case.compile} are those without"
    if device.type != "cuda":
        return Check(what, None, "nothing is compiled here")
    try:
        ours, theirs = (_losses(each, Workers(device=device)) for each in (case, replace(case, compile="no")))
    except Exception as error:  # of torch's compiler
        return Check(what, False, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    return _alike(what, ours, theirs)


def _alike(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> Check:
    apart = float(((ours - theirs).abs() / theirs.abs()).max())
    return Check(what, apart <= LOSS_TOLERANCE, f"losses at most {apart:.1e} apart")


def _waits_for_nothing(case: Case, device: torch.device) -> Check:
    step, batches = case.made(Workers(device=device))
    rows = batches.of_epoch(0)
    step(batches.draw(0, rows[0]))
    what = f"a step in {case.precision} does not wait for the GPU"
    if device.type != "cuda":
        return Check(what, None, "torch tells on CUDA only")
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batches.draw(1, rows[1]))
    except RuntimeError as error:
        return Check(what, False, str(error).splitlines()[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Check(what, True, "none seen")


def _continues_exactly(case: Case, device: torch.device) -> Check:
    class CutOff(Exception):
        pass

    class CutsOff(Silent):
        def epoch(self, record: dict[str, float]) -> None:
            if record["epoch"] == 3:
                raise CutOff

    case = replace(case, epochs=4)

    def trained(store: MemoryStore, reporter: Silent) -> dict[str, torch.Tensor]:
        checkpoints = Checkpoints(store, "checkpoints/student", "the identity")
        workers, teachers = Workers(device=device), case.teachers(device)
        done = train(
            case.run,
            case.data(device),
            checkpoints=checkpoints,
            reporter=reporter,
            workers=workers,
            teachers=teachers,
        )
        return done.network.state_dict()

    whole, store = trained(MemoryStore(), Silent()), MemoryStore()
    with suppress(CutOff):
        trained(store, CutsOff())
    continued = trained(store, Silent())
    apart = [name for name, value in whole.items() if not torch.equal(value, continued[name])]
    what = f"a run in {case.precision} that was cut off continues to the same bits"
    return Check(what, not apart, f"{len(apart)} of {len(whole)} tensors differ")


def _needs_what_was_predicted(case: Case, device: torch.device) -> Check:
    predicted = step_on_paper(case.run, case.spec, images=case.batch_size).peak_bytes
    what = f"a step in {case.precision} needs the memory that `ekd plan` says"
    if device.type != "cuda":
        return Check(what, None, "torch counts on CUDA only; tests compare it with a CPU's allocator")
    before = torch.cuda.memory_allocated()
    step, batches = case.made(Workers(device=device))
    step(batches.draw(0, batches.of_epoch(0)[0]))
    torch.cuda.reset_peak_memory_stats()
    step(batches.draw(1, batches.of_epoch(0)[1]))
    measured = torch.cuda.max_memory_allocated() - before
    ratio = measured / predicted
    return Check(what, abs(ratio - 1) <= MEMORY_TOLERANCE, f"{ratio:.2f} of it")


def _two_workers(device: torch.device, second: torch.device | None) -> Check:
    what = "two workers, between two GPUs by NCCL, train what one trains"
    if second is None:
        return Check(what, None, "there is one device")
    case = replace(SMALL, method="latent_be", perturbation="tdiv_sdiv", batch_norm="synchronised")
    alone = _losses(case, Workers(device=device))
    with TemporaryDirectory() as folder:
        url, places = rendezvous_url("127.0.0.1"), [str(device), str(second)]
        mp.spawn(_worker, (url, places, case, folder), nprocs=2)
        both = [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(2)]
    apart = float(((sum(both) / 2 - alone).abs() / alone.abs()).max())
    return Check(what, apart <= LOSS_TOLERANCE, f"losses at most {apart:.1e} apart")


def _worker(rank: int, url: str, places: Sequence[str], case: Case, folder: str) -> None:
    device = torch.device(places[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    compute_exactly()
    join(url, "127.0.0.1", rank, 2, device)
    torch.save(_losses(case, Workers(rank, 2, device=device)), Path(folder) / str(rank))
