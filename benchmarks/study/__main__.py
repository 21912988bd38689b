"""`python -m benchmarks.study REGIME ...`: train what is missing, then write the pages of results.

`python -m benchmarks.study check` makes every page again from its record, and fails if one differs, if a
cell's accuracy is not that of its own images, or if there is no record.
"""

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
from ekd_train.workers.allocator import KEEP_FREED_MEMORY

if TYPE_CHECKING:
    from benchmarks.study.choice import Choice
    from benchmarks.study.together import Compared
    from orchestrator.pipeline.progress_bar import ProgressBar

T = TypeVar("T")


def main() -> int:
    """For each regime choice of temperature and strength, teachers, final cells, page; the exit status."""
    if sys.argv[1:2] == ["check"]:
        return _check(Path(*sys.argv[2:3] or ["docs/results"]))
    parser = _parser()
    arguments = parser.parse_args()
    names = arguments.arms.split(",") if arguments.arms else list(ARMS)
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"--arms: there is no {unknown[0]}; there are {', '.join(ARMS)}")
    if min(arguments.seeds, arguments.teacher_sets, arguments.tuning_seeds, arguments.processes) < 1:
        parser.error("--seeds, --teacher-sets, --tuning-seeds and --processes must be at least 1")
    if arguments.untuned and arguments.chosen_in:
        parser.error("--untuned and --chosen-in exclude each other")
    if len(arguments.regimes) > 1 and not arguments.page:
        parser.error("several regimes need --page NAME: their own pages are NAME-REGIME")
    from benchmarks.study.choice import ChoiceFailed

    os.environ.update(KEEP_FREED_MEMORY)  # for the processes of the pool
    compared = []
    for regime in arguments.regimes:
        try:
            compared.append(_compare(regime, [ARMS[name] for name in names], arguments))
        except ChoiceFailed as error:
            print(f"{error}\nwhat is done is kept; the same command continues from there", file=sys.stderr)
            return 1
        _write(compared[-1], arguments)
    if len(compared) > 1 and "control" in names:
        _write_together(compared, arguments)
    return 0


def _check(output: Path) -> int:
    from benchmarks.study.records import faults

    found = faults(output)
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


def _compare(regime: str, arms: Sequence[Arm], arguments: argparse.Namespace) -> Compared:
    """One regime, from the choice to the last student."""
    from benchmarks.study.cells import one_thread
    from benchmarks.study.together import Compared

    chosen = {} if arguments.untuned else _choose(arguments.chosen_in or regime, arms, arguments)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn, initializer=one_thread) as pool:
        study = _Study(pool, regime, arguments.folder, arms, arguments.teacher_sets)
        pools = study.train_teachers()
        return Compared(regime, pools, study.final(arguments.seeds, chosen))


def _choose(regime: str, arms: Sequence[Arm], arguments: argparse.Namespace) -> dict[str, Choice]:
    """What is chosen of every arm, as it is best in `regime`."""
    from benchmarks.study.choice import tune

    searched = list(dict.fromkeys(ARMS["kd"] if arm.has_kds_settings else arm for arm in arms))
    meter, found = _meter("searches"), {}
    try:
        for arm in searched:  # one after the other: each takes the whole machine
            found[arm.name] = tune(regime, arm, arguments.tuning_seeds, arguments.folder)
            meter(len(found), len(searched))
    finally:
        meter.close()
    return found


def _meter(what: str) -> ProgressBar:
    from rich.console import Console

    from orchestrator.pipeline.progress_bar import ProgressBar

    return ProgressBar(what, Console(stderr=True))


class _Study:
    def __init__(
        self, pool: ProcessPoolExecutor, regime: str, folder: Path, arms: Sequence[Arm], teacher_sets: int
    ) -> None:
        self.pool, self.regime, self.folder, self.arms = pool, regime, folder, arms
        self.sets = range(teacher_sets)

    def train_teachers(self) -> dict[str, list[dict[str, Any]]]:
        """All pools that the arms want; what the teachers and ensembles of each set reach."""
        from benchmarks.study.cells import SPLITS, Teacher, measure_teachers, train_teacher

        regime, pools = self.regime, sorted({"same", *(arm.pool for arm in self.arms)}, reverse=True)
        teachers = [
            Teacher(regime, pool, index, one)
            for pool in pools
            for one in self.sets
            for index in range(len(REGIMES[regime].teachers(pool)))
        ]
        self._all("teachers", {t: (train_teacher, t, self.folder) for t in teachers})
        return {
            pool: [
                self.pool.submit(measure_teachers, regime, pool, self.folder, SPLITS, one).result()
                for one in self.sets
            ]
            for pool in pools
        }

    def final(self, seeds: int, chosen: Mapping[str, Choice]) -> list[Any]:
        """Every arm's final cells, one a set of teachers and seed; averages of others' networks come last."""
        from benchmarks.study.cells import Cell, run_cell
        from benchmarks.study.choice import Choice
        from benchmarks.study.results import ArmResult

        def settings(arm: Arm) -> Choice:
            return chosen.get("kd" if arm.has_kds_settings else arm.name, Choice())

        def cells(arm: Arm, teacher_sets: Iterable[int], seeds: Iterable[int]) -> list[Cell]:
            return [
                Cell(self.regime, arm.name, seed, settings(arm), one)
                for one in teacher_sets
                for seed in seeds
            ]

        averages = [arm for arm in self.arms if arm.made_by == "uniform average"]
        trained = {arm.name: cells(arm, self.sets, range(seeds)) for arm in self.arms if arm not in averages}
        if averages and "kd" not in trained:
            trained["kd"] = cells(ARMS["kd"], self.sets, range(seeds))
        done = self._all(
            "students", {one: (run_cell, one, self.folder) for group in trained.values() for one in group}
        )
        for arm in averages:
            trained[arm.name] = cells(arm, self.sets, [0])
            of_a_set = {
                cell: tuple(one for one in trained["kd"] if one.teacher_set == cell.teacher_set)
                for cell in trained[arm.name]
            }
            done |= self._all(
                arm.name, {cell: (run_cell, cell, self.folder, others) for cell, others in of_a_set.items()}
            )
        return [
            ArmResult(
                arm,
                settings(arm),
                [done[cell] for cell in trained[arm.name]],
                [(cell.teacher_set, cell.seed) for cell in trained[arm.name]],
            )
            for arm in self.arms
        ]

    def _all(self, what: str, tasks: Mapping[T, tuple[Callable[..., Any], *tuple[Any, ...]]]) -> dict[T, Any]:
        meter = _meter(what)
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


def _write(compared: Compared, arguments: argparse.Namespace) -> None:
    from benchmarks.study.figures import draw_arms, draw_members
    from benchmarks.study.records import write

    regime, results, output = compared.regime, compared.arms, arguments.output
    name = arguments.page or regime
    if len(arguments.regimes) > 1:
        name = f"{name}-{regime}"
    output.mkdir(parents=True, exist_ok=True)
    draw_arms(output / f"{name}.svg", regime, compared.pools, results)
    pictures = [f"![Test accuracy, NLL and ECE of every arm beside teachers and ensemble]({name}.svg)"]
    if any(one.values("accuracy", "members") for one in results):
        draw_members(output / f"{name}-members.svg", regime, results)
        pictures.append(f"![What averaging loses, and how far members differ]({name}-members.svg)")
    print(
        write(
            output,
            name,
            compared,
            because=REGIMES[regime].because,
            command=_command(),
            chosen=_chosen(arguments),
            pictures="\n\n".join(pictures),
        )
    )


def _write_together(compared: Sequence[Compared], arguments: argparse.Namespace) -> None:
    from benchmarks.study.together import draw_regimes, overview

    name = arguments.page
    draw_regimes(arguments.output / f"{name}.svg", compared)
    text = overview(compared, command=_command(), chosen=_chosen(arguments), picture=f"{name}.svg")
    (arguments.output / f"{name}.md").write_text(text)
    print(text)


def _chosen(arguments: argparse.Namespace) -> str:
    from benchmarks.study.results import chosen_by

    return "those of the papers" if arguments.untuned else chosen_by(arguments.chosen_in)


def _command() -> str:
    return f"python -m benchmarks.study {' '.join(_without_folders(sys.argv[1:]))}"


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


def _regime(name: str) -> str:
    if name not in REGIMES:
        raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(REGIMES)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description="Compare ways to distil an ensemble, regime by regime; the same command again continues.",
    )
    parser.add_argument(
        "regimes",
        nargs="+",
        type=_regime,
        metavar="REGIME",
        help=f"one or several of {', '.join(REGIMES)}; CIFAR's want a GPU",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=4,
        help="final students of every arm with each set of teachers (default: 4)",
    )
    parser.add_argument("--teacher-sets", type=int, default=1, help="sets of teachers (default: 1)")
    parser.add_argument(
        "--tuning-seeds", type=int, default=1, help="students for every setting that is tried (default: 1)"
    )
    parser.add_argument(
        "--untuned", action="store_true", help="temperature 4 and strength 1 for all, as in the papers"
    )
    parser.add_argument(
        "--chosen-in",
        choices=list(REGIMES),
        metavar="REGIME",
        help="temperature and strength of each arm as `ekd tune` finds them there (default: here)",
    )
    parser.add_argument("--arms", default="", metavar="A,B,...", help="only these (default: all)")
    parser.add_argument(
        "--processes", type=int, default=2, help="training runs at a time, a thread each (default: 2)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("ekd-runs/study"), help="networks and measurements"
    )
    parser.add_argument(
        "--page",
        metavar="NAME",
        help="name of page and figures (default: the regime's); of several regimes, of their comparison",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/results"), help="page and figure (default: docs/results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
