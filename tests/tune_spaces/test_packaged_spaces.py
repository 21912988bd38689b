"""Every packaged space: real keys, domains inside the fields' bounds, no point that cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest

import tune_spaces
from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.experiment.schema import load_experiment
from orchestrator.tuning.pool import pool_experiment, trial_experiment
from orchestrator.tuning.searchers import random_points
from orchestrator.tuning.space import check_space, load_space, packaged_spaces

SPACES = packaged_spaces()
MADE = [name for name in packaged_experiments() if not any(g.given for g in load_experiment(name).teachers)]
"""Experiments that make their teachers, and so as many as a trial wants."""
GIVEN = [name for name in packaged_experiments() if name not in MADE]


def test_the_folder_holds_spaces_only() -> None:
    folder = Path(tune_spaces.__file__).parent
    names = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    assert names == {"__init__.py", *(f"{name}.yaml" for name in SPACES)}
    assert "student" in SPACES


@pytest.mark.parametrize("experiment", MADE)
@pytest.mark.parametrize("space", SPACES)
def test_every_key_is_a_real_field_and_every_domain_inside_its_bounds(space: str, experiment: str) -> None:
    check_space(load_space(space), load_experiment(experiment))


@pytest.mark.parametrize("experiment", GIVEN)
def test_more_teachers_than_are_given_cannot_be_searched(experiment: str) -> None:
    with pytest.raises(
        ExperimentError, match="these weights are one teacher; leave count out, or set fine_tune"
    ):
        check_space(load_space("teachers"), load_experiment(experiment))


@pytest.mark.parametrize("space", SPACES)
def test_points_inside_the_domains_can_be_run_too(space: str) -> None:
    found, experiment = load_space(space), load_experiment("digits")
    pool = pool_experiment(experiment, found.domains)
    for values in random_points(found, 30):
        trial_experiment(pool, values)


@pytest.mark.parametrize("space", SPACES)
def test_every_range_has_a_reason(space: str) -> None:
    for key, domain in load_space(space).domains.items():
        assert len(domain.reason.split()) >= 6, f"{space}: {key}"


def test_the_student_space_is_the_one_that_the_issue_asks_for() -> None:
    assert set(load_space("student").domains) == {
        "distillation.temperature",
        "student.members",
        "perturbation.strength",
    }


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ExperimentError, match="did you mean student"):
        load_space("studnt")
