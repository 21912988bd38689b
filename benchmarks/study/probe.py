"""`python -m benchmarks.study.probe`: is a regime worth a study? Validation images only.

The ensemble's gain over one teacher bounds what distillation can show, and teachers that agree on the
images students learn from leave perturbations nothing to show. One seed, every way at the papers'
temperature and strength.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean

from benchmarks.study.regimes import FRACTIONS, REGIMES, fashion

ARMS = ("control", "kd", "latent_be+tdiv_sdiv")


def main() -> None:
    """Train teachers and one student of each arm in this process; print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.probe", description=__doc__)
    parser.add_argument("--fraction", type=float, default=0.05, help="of Fashion-MNIST's training images")
    parser.add_argument("--epochs", type=int, help="of every training run")
    parser.add_argument("--channels", type=int, default=4, help="of the networks' stem")
    parser.add_argument("--compact", action="store_true", help="teachers WRN-16-2, student WRN-10-1")
    parser.add_argument("--augmented", action="store_true", help="crops and flips")
    parser.add_argument("--folder", type=Path, default=Path("ekd-runs/probe"), help="networks")
    arguments = parser.parse_args()
    epochs = arguments.epochs or FRACTIONS.get(arguments.fraction)
    if epochs is None:
        parser.error(
            f"--fraction {arguments.fraction:g} needs --epochs; known are {', '.join(map(str, FRACTIONS))}"
        )
    name = f"{100 * arguments.fraction:g}-{epochs}-{arguments.channels}"
    name += "-compact" * arguments.compact + "-augmented" * arguments.augmented
    REGIMES[name] = fashion(
        arguments.fraction,
        epochs,
        arguments.channels,
        compact=arguments.compact,
        augmented=arguments.augmented,
    )
    _probe(name, arguments.folder)


def _probe(name: str, folder: Path) -> None:
    from benchmarks.study.cells import Cell, Teacher, measure_teachers, one_thread, run_cell, train_teacher
    from benchmarks.study.choice import FIRST_SEED, Choice

    one_thread()
    began = time.process_time()
    for index in range(len(REGIMES[name].teachers("same"))):
        train_teacher(Teacher(name, "same", index), folder)
    pool = measure_teachers(name, "same", folder, splits=("validation",))
    each = [teacher["validation"] for teacher in pool["teachers"]]
    rows = [
        ("teachers", mean(one["accuracy"] for one in each), mean(one["nll"] for one in each)),
        ("ensemble", *(pool["ensemble"]["validation"][key] for key in ("accuracy", "nll"))),
    ]
    seen = []
    print(f"{name}: teachers {time.process_time() - began:.0f} s", flush=True)
    for arm in ARMS:
        began = time.process_time()
        best = run_cell(Cell(name, arm, FIRST_SEED, Choice(), final=False), folder)["best"]
        rows.append((arm, best["averaged/accuracy"], best["averaged/nll"]))
        kl, agreement = (best.get(f"train/teachers_diversity/{key}") for key in ("pairwise_kl", "agreement"))
        if kl is not None:
            seen.append(f"{kl:.3f} nats and agree on {100 * agreement:.1f} % as {arm} shows them")
        print(f"{name}: {arm} {time.process_time() - began:.0f} s", flush=True)
    for who, accuracy, nll in rows:
        print(f"{name}: {who:<22} {100 * accuracy:.2f} %  NLL {nll:.4f}")
    print(f"{name}: on training images two teachers differ by {', by '.join(seen)}", flush=True)


if __name__ == "__main__":
    main()
