"""What `ekd run` and `ekd tune` print at the end, of runs that were made by an earlier version."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.results import print_results
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.smoke import SUFFIX
from orchestrator.pipeline.manifest import read_experiment, read_manifest
from orchestrator.pipeline.manifest_content import ManifestContent, Registered
from orchestrator.registry.promotion import Validation, decide_promotion, doubt
from orchestrator.storage import open_storage

GOLDEN = Path(__file__).parents[2] / "golden"
TRACKING = "sqlite:////elsewhere/mlflow.db"
GOOD, BETTER = Validation(0.9, 0.4, 0.9), Validation(0.95, 0.3, 0.95)
AT_CHANCE = Validation(0.1, 2.3, 0.1)


def content(promotion: str, run: str) -> ManifestContent:
    """The manifest of a run whose registration ended so."""
    stored = read_manifest(open_storage(str(GOLDEN / run)))
    assert stored is not None
    registered: Registered = stored.registered.model_copy(update={"promotion": promotion})
    stage = stored.stages["register"].model_copy(update={"outputs": registered})
    return stored.model_copy(update={"stages": stored.stages | {"register": stage}})


def printed(
    promotion: str,
    capsys: pytest.CaptureFixture[str],
    *,
    run: str = "finished",
    small: bool = False,
    asked: bool = False,
) -> list[str]:
    """The lines of such a run's end."""
    storage = open_storage(str(GOLDEN / run))
    experiment = read_experiment(storage)
    assert isinstance(experiment, Experiment)
    if small:
        experiment = experiment.model_copy(update={"name": f"{experiment.name}{SUFFIX}"})
    checked: Any = SimpleNamespace(
        experiment=experiment, storage=storage, tracking_uri=TRACKING, run_id="mine"
    )
    manifest: Any = SimpleNamespace(content=content(promotion, run))
    print_results(checked, manifest, asked=asked)
    return capsys.readouterr().out.splitlines()


def doubted(student: Validation, control: Validation) -> str:
    """What the registry says of a student that is the first of its name."""
    said = doubt(student, control, by="accuracy", classes=10, images=500)
    return str(decide_promotion(student, None, vacant=True, doubted=said))


CHALLENGERS = {
    "at chance": (doubted(AT_CHANCE, GOOD), "train longer"),
    "worse than its control": (doubted(GOOD, BETTER), "Labels alone do better"),
    "diverged": (str(decide_promotion(None, None, vacant=True)), "lower student.training.learning_rate"),
    "not better than the champion": (str(decide_promotion(GOOD, BETTER, vacant=False)), ""),
    "the same network": ("challenger: the same network as version 1, weight for weight", ""),
}


@pytest.mark.parametrize("small", [False, True], ids=["", "a smoke run"])
@pytest.mark.parametrize(("promotion", "advice"), CHALLENGERS.values(), ids=CHALLENGERS.keys())
def test_every_challenger_is_told_the_command_that_makes_it_champion(promotion, advice, small, capsys):
    assert promotion.startswith("challenger: ")
    lines = printed(promotion, capsys, small=small)
    (at,) = [number for number, line in enumerate(lines) if "ekd promote" in line]
    version = lines[-1]
    assert version.startswith("models:/ekd-golden/")
    assert lines[at].endswith(f": ekd promote {version} --reason WHY --tracking {TRACKING}")
    assert "smoke run" in lines[at] if small else advice in lines[at - 1]


def test_of_a_champion_no_command_is_told(capsys):
    lines = printed(str(decide_promotion(BETTER, GOOD, vacant=False)), capsys)
    assert any(line.startswith("Registered as champion: better") for line in lines)
    assert not any("promote" in line for line in lines)


def test_a_run_that_is_called_again_says_that_its_alias_is_of_when_it_was_registered(capsys):
    lines = printed(CHALLENGERS["not better than the champion"][0], capsys)
    (said,) = [line for line in lines if line.startswith("Registered as challenger: not better")]
    assert said.endswith(" (when registered; `ekd models ekd-golden` says what it is now)")
    (advice,) = [line for line in lines if "ekd promote" in line]
    assert advice.startswith("To make it the champion, if it is not by now: ")


def test_what_the_registry_has_just_said_is_of_today(capsys):
    promotion = "champion: smaller images (when registered, challenger: not better)"
    lines = printed(promotion, capsys, asked=True)
    assert f"In the registry: {promotion}" in lines
    assert not any("promote" in line for line in lines)
    lines = printed(CHALLENGERS["the same network"][0], capsys, asked=True)
    assert any(line.startswith("To make it the champion: ") for line in lines)


@pytest.mark.parametrize("run", ["finished", "searched"])
def test_who_registers_a_run_that_was_a_search_is_told_what_it_found(run, capsys):
    lines = printed("champion: the first champion", capsys, run=run, asked=True)
    found = ["Trials: 2 finished", "Best on validation: trial-0001, 6.67 %, distillation.temperature=2"]
    assert (lines[:2] == found) == (run == "searched")
    assert not any(line.startswith("Trials") for line in lines[2:])
