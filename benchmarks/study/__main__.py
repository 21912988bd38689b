"""`python -m benchmarks.study REGIME`: train what is missing, then write the page of results."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.study.arms import ARMS, Arm
from benchmarks.study.regimes import REGIMES
from ekd_train.allocator import KEEP_FREED_MEMORY

if TYPE_CHECKING:
    from benchmarks.study.cells import Cell
    from benchmarks.study.choice import Choice

T = TypeVar("T")


def main() -> int:
    """Teachers, choice of temperature and strength, final cells, page and figure; the exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    names = arguments.arms.split(",") if arguments.arms else list(ARMS)
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"--arms: there is no {unknown[0]}; there are {', '.join(ARMS)}")
    if min(arguments.seeds, arguments.tuning_seeds, arguments.processes) < 1 or arguments.rate_seeds < 0:
        parser.error("--seeds, --tuning-seeds and --processes must be at least 1, --rate-seeds at least 0")
    if arguments.untuned and arguments.chosen_in:
        parser.error("--untuned and --chosen-in exclude each other")
    from benchmarks.study.cells import one_thread

    os.environ.update(KEEP_FREED_MEMORY)  # for the processes of the pool
    spawn = get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn, initializer=one_thread) as pool:
        study = _Study(pool, arguments.regime, arguments.folder, [ARMS[name] for name in names])
        chosen = {}
        if not arguments.untuned:
            tried = dict.fromkeys(("temperature", "strength"), arguments.tuning_seeds)
            tried["rate"] = arguments.rate_seeds
            chosen = study.choose(arguments.chosen_in or arguments.regime, tried)
        pools = study.train_teachers(arguments.regime)
        results = study.final(arguments.seeds, chosen)
    _write(arguments, pools, results)
    return 0


class _Study:
    def __init__(self, pool: ProcessPoolExecutor, regime: str, folder: Path, arms: Sequence[Arm]) -> None:
        self.pool, self.regime, self.folder, self.arms = pool, regime, folder, arms

    def train_teachers(self, regime: str) -> dict[str, dict[str, Any]]:
        """All pools of `regime` that the arms want; what their teachers and ensembles reach."""
        from benchmarks.study.cells import Teacher, measure_teachers, train_teacher

        pools = sorted({"same", *(arm.pool for arm in self.arms)}, reverse=True)
        teachers = [
            Teacher(regime, pool, index)
            for pool in pools
            for index in range(len(REGIMES[regime].teachers(pool)))
        ]
        self._all("teachers", {t: (train_teacher, t, self.folder) for t in teachers})
        return {
            pool: self.pool.submit(measure_teachers, regime, pool, self.folder).result() for pool in pools
        }

    def choose(self, regime: str, seeds: Mapping[str, int]) -> dict[str, Choice]:
        """What is chosen of every arm that is trained, as it is best in `regime`."""
        from benchmarks.study.cells import run_cell
        from benchmarks.study.choice import choose

        def run_all(cells: Sequence[Any]) -> dict[Any, dict[str, Any]]:
            return self._all("choice", {cell: (run_cell, cell, self.folder) for cell in cells})

        self.train_teachers(regime)
        # An average of KD's weights has KD's settings, whether KD itself is asked for or not.
        kd = [ARMS["kd"]] if any(arm.made_by in ("swa", "uniform average") for arm in self.arms) else []
        return choose(regime, dict.fromkeys([*self.arms, *kd]), seeds, run_all)

    def final(self, seeds: int, chosen: Mapping[str, Choice]) -> list[Any]:
        """Every arm's final cells, one a seed; averages of others' networks come last."""
        from benchmarks.study.cells import run_cell
        from benchmarks.study.choice import Choice, cell
        from benchmarks.study.results import ArmResult

        def settings(arm: Arm) -> Choice:
            source = "kd" if arm.made_by in ("swa", "uniform average") else arm.name
            return chosen.get(source, Choice())

        def cells(arm: Arm) -> list[Cell]:
            return [cell(self.regime, arm.name, seed, settings(arm), final=True) for seed in range(seeds)]

        averages = [arm for arm in self.arms if arm.made_by == "uniform average"]
        trained = {arm.name: cells(arm) for arm in self.arms if arm not in averages}
        if averages and "kd" not in trained:
            trained["kd"] = cells(ARMS["kd"])
        done = self._all(
            "students", {one: (run_cell, one, self.folder) for group in trained.values() for one in group}
        )
        for arm in averages:
            (first, *_), networks = cells(arm), tuple(trained["kd"])
            trained[arm.name] = [first]
            done |= self._all(arm.name, {first: (run_cell, first, self.folder, networks)})
        return [
            ArmResult(
                arm.name,
                settings(arm).temperature if arm.distils else None,
                settings(arm).strength if arm.perturbs else None,
                settings(arm).rate,
                [done[one] for one in trained[arm.name]],
            )
            for arm in self.arms
        ]

    def _all(self, what: str, tasks: Mapping[T, tuple[Callable[..., Any], *tuple[Any, ...]]]) -> dict[T, Any]:
        from rich.console import Console

        from orchestrator.meter import Meter

        meter = Meter(what, Console(stderr=True))
        futures = {self.pool.submit(*task): key for key, task in tasks.items()}
        results = {}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                meter(len(results), len(tasks))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        finally:
            meter.close()
        return results


def _write(arguments: argparse.Namespace, pools: Mapping[str, Any], results: Sequence[Any]) -> None:
    from benchmarks.study.figures import draw_arms
    from benchmarks.study.results import chosen_by, page

    regime = arguments.regime
    command = f"python -m benchmarks.study {' '.join(_without_folders(sys.argv[1:]))}"
    chosen = "those of the papers" if arguments.untuned else chosen_by(arguments.chosen_in)
    text = page(regime, REGIMES[regime].because, pools, results, command=command, chosen=chosen)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure = arguments.output / f"{regime}.svg"
    draw_arms(figure, regime, pools, results)
    title, _, rest = text.partition("\n")
    alternative = "Test accuracy, NLL and calibrated NLL of every arm beside teachers and ensemble"
    (arguments.output / f"{regime}.md").write_text(f"{title}\n\n![{alternative}]({figure.name})\n{rest}")
    print(text)


def _without_folders(words: Iterable[str]) -> list[str]:
    """The command line without where things are kept, which is this machine's business."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in ("--folder", "--output"):
            skip = not skip
        elif not word.startswith(("--folder=", "--output=")):
            kept.append(word)
    return kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description="Compare ways to distil an ensemble in one regime; the same command again continues.",
    )
    parser.add_argument("regime", choices=list(REGIMES), metavar="REGIME", help=", ".join(REGIMES))
    parser.add_argument("--seeds", type=int, default=4, help="final students of every arm (default: 4)")
    parser.add_argument(
        "--tuning-seeds", type=int, default=1, help="students for every setting that is tried (default: 1)"
    )
    parser.add_argument(
        "--rate-seeds",
        type=int,
        default=2,
        help="students for every learning rate that is tried (default: 2; 0: the regime's for all)",
    )
    parser.add_argument(
        "--untuned", action="store_true", help="temperature 4 and strength 1 for all, as in the papers"
    )
    parser.add_argument(
        "--chosen-in",
        choices=list(REGIMES),
        metavar="REGIME",
        help="learning rate, temperature and strength of each arm as chosen there (default: here)",
    )
    parser.add_argument("--arms", default="", metavar="A,B,...", help="only these (default: all)")
    parser.add_argument(
        "--processes", type=int, default=2, help="training runs at a time, a thread each (default: 2)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("ekd-runs/study"), help="networks and measurements"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/results"), help="page and figure (default: docs/results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
