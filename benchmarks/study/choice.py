"""Each arm's temperature, strength and, where losses add up, learning rate: found by `ekd tune`."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.regimes import REGIMES

FIRST_SEED = 1000
"""Of the seeds for choosing: no final cell has one of them."""

TRIALS = 8
"""Of every arm's search: the whole grid where it has so many points, else so many of them at random."""

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
TEMPERATURES_OF_Z_SCORES = (0.25, 0.5, 1.0, 2.0)
"""Of standardised logits, whose deviation is one: at 2, the paper's, ten classes are nearly uniform."""
STRENGTHS = (0.5, 1.0, 2.0)
RATES = (0.5, 1.0)
"""Shares of the regime's learning rate."""
RATES_OF_LABELS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Of the control, which has nothing else to choose."""


RATE, TEMPERATURE, STRENGTH = (
    "student.training.learning_rate",
    "distillation.temperature",
    "perturbation.strength",
)


@dataclass(frozen=True)
class Choice:
    """What is chosen for an arm; as it stands: the papers', and the regime's learning rate."""

    temperature: float = 4.0
    strength: float = 1.0
    rate: float = 1.0
    """Share of the regime's learning rate."""


class ChoiceFailed(RuntimeError):
    """`ekd tune` has ended with an error; the message is its own."""


def domains(arm: Arm, rate: float) -> dict[str, dict[str, Any]]:
    """What is searched for an arm, as a space of `ekd tune`; `rate` is the regime's learning rate."""
    shares = RATES if arm.distils else RATES_OF_LABELS
    found: dict[str, tuple[float, ...]] = {RATE: tuple(share * rate for share in shares)}
    if arm.distils:
        found[TEMPERATURE] = TEMPERATURES_OF_Z_SCORES if arm.standardises else TEMPERATURES
    if arm.perturbs:
        found[STRENGTH] = STRENGTHS
    return {
        key: {"choice": list(values), "reason": "The study's, the same for all its arms."}
        for key, values in found.items()
    }


def tune(regime: str, arm: Arm, seeds: int, folder: Path) -> Choice:
    """The best choice of an arm on validation images: `ekd tune` as a user calls it, or its kept result.

    Args:
        regime: its name.
        arm: which; the control's student learns from labels alone, which makes it the control.
        seeds: students of every setting, compared by their mean.
        folder: where the study is kept.

    Raises:
        ChoiceFailed: the search could not be ended; what is done is kept.
    """
    rate = REGIMES[regime].build("same").student.training.learning_rate
    space = {"description": "of the study", "domains": domains(arm, rate)}
    points = math.prod(len(domain["choice"]) for domain in space["domains"].values())
    # Of so few trials early stopping would judge by the noise of the first epochs.
    options = ["--scheduler", "none", "--searcher"]
    options += ["grid"] if points <= TRIALS else ["random", "--trials", str(TRIALS)]
    labels_alone = ("distillation.alpha=0",) if arm.made_by == "labels" else ()
    settings = [f"seed={FIRST_SEED}", *REGIMES[regime].settings(arm.pool, (*arm.overrides, *labels_alone))]
    identity = json.dumps([settings, space, options, seeds])
    run = f"{arm.name.replace('+', '-')}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    place = (folder / "tune" / regime).absolute()
    place.mkdir(parents=True, exist_ok=True)
    (file := place / f"{run}.space.yaml").write_text(json.dumps(space))
    command = [sys.executable, "-m", "orchestrator", "tune", REGIMES[regime].experiment, "--run-id", run]
    command += ["--space", str(file), "--seeds", str(seeds), *options]
    for setting in (*settings, f"name=study-{regime}", f"storage.uri={place}", "cluster.address=local"):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChoiceFailed(f"{arm.name}: ekd tune ended with {done.returncode}: {done.stderr[-2000:]}")
    manifest = json.loads((place / run / "manifest.json").read_text())
    return chosen(manifest["stages"]["search"]["outputs"]["best"]["values"], rate)


def chosen(values: Mapping[str, float], rate: float) -> Choice:
    """The choice that a search's best trial is; `rate` is the regime's learning rate.

    >>> chosen({"distillation.temperature": 2.0, "student.training.learning_rate": 0.025}, 0.05)
    Choice(temperature=2.0, strength=1.0, rate=0.5)
    """
    usual = Choice()
    return Choice(
        values.get(TEMPERATURE, usual.temperature),
        values.get(STRENGTH, usual.strength),
        values.get(RATE, rate) / rate,
    )
