"""One pool of teachers, and which of them teach a trial."""

from __future__ import annotations

import pytest
from training_runs import a_description

from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.experiment.schema import Experiment, build_experiment, load_experiment
from orchestrator.planning.networks import check_networks
from orchestrator.tuning.domains import Choice
from orchestrator.tuning.pool import baseline_values, pool_experiment, trial_experiment, unlike_pool
from orchestrator.tuning.space import check_space, load_space, packaged_spaces


def choice(*values: object) -> Choice:
    return Choice(choice=values, reason="a test")


def mixed() -> Experiment:
    groups = [{"count": 2}, {"count": 1, "architecture": {"name": "resnet", "depth": 8}}]
    student = {"method": "ekd", "members": 3}
    return build_experiment({"name": "mixed", "teachers": groups, "student": student})


def test_the_pool_is_as_large_as_the_largest_member_count() -> None:
    pool = pool_experiment(load_experiment("digits"), {"student.members": choice(2, 6, 3)})
    assert pool.teacher_count == 6


def test_the_pool_is_never_smaller_than_the_experiments_own_teachers() -> None:
    pool = pool_experiment(load_experiment("digits"), {"student.members": choice(2, 3)})
    assert pool.teacher_count == 4


def test_teachers_of_the_pool_do_not_depend_on_the_trial() -> None:
    pool = pool_experiment(load_experiment("digits"), {"student.members": choice(2, 6)})
    for members in (2, 3, 6):
        trial = trial_experiment(pool, {"student.members": members, "student.training.learning_rate": 0.1})
        assert trial.teacher_runs() == pool.teacher_runs()[:members]
    assert pool.teacher_runs()[:4] == load_experiment("digits").teacher_runs()


def test_a_trial_is_what_the_same_experiment_would_be_alone() -> None:
    overrides = ["student.members=3", "teachers.count=3", "perturbation.strength=2.5"]
    alone = load_experiment("digits", overrides)
    pool = pool_experiment(load_experiment("digits"), {"student.members": choice(2, 6)})
    trial = trial_experiment(pool, {"student.members": 3, "perturbation.strength": 2.5})
    assert trial.student_run() == alone.student_run()
    assert trial.result_hash() == alone.result_hash()


def test_fewer_members_take_the_first_teachers_of_a_mixed_pool() -> None:
    pool = pool_experiment(mixed(), {"student.members": choice(2, 5)})
    assert [group.count for group in pool.teachers] == [2, 3]
    trial = trial_experiment(pool, {"student.members": 3})
    assert [group.count for group in trial.teachers] == [2, 1]


def test_a_plain_student_is_taught_by_the_whole_pool_unless_the_space_says_how_many() -> None:
    pool = pool_experiment(load_experiment("digits"), {"teachers.count": choice(1, 6)})
    plain = {"student.method": "kd", "perturbation.kind": "none"}
    assert trial_experiment(pool, plain).teacher_count == 6
    assert trial_experiment(pool, plain | {"teachers.count": 1}).teacher_count == 1


def test_more_teachers_than_the_pool_has_are_refused() -> None:
    with pytest.raises(ExperimentError, match="the pool has 4"):
        trial_experiment(load_experiment("digits"), {"teachers.count": 5})


def test_contradicting_values_are_refused() -> None:
    with pytest.raises(ExperimentError, match="tdiv_sdiv"):
        trial_experiment(load_experiment("digits"), {"student.method": "kd"})


def test_in_rotation_the_whole_pool_teaches_fewer_members() -> None:
    experiment = load_experiment("digits", ["distillation.assignment=rotating"])
    pool = pool_experiment(experiment, {"student.members": choice(2, 6)})
    trial = trial_experiment(pool, {"student.members": 2})
    assert (trial.student.members, trial.teacher_count) == (2, 6)


THREE = ("teachers.count=3", "student.members=3")


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, ()) for name in packaged_experiments()), ("digits", THREE)]
)
@pytest.mark.parametrize("space", packaged_spaces())
def test_trial_0_is_the_experiment_as_it_stands(name: str, overrides: tuple[str, ...], space: str) -> None:
    """Exactly: its student is the network that `ekd run` trains, and finds again."""
    experiment = load_experiment(name, overrides)
    try:
        check_space(load_space(space), experiment)
    except ExperimentError as error:
        pytest.skip(str(error))
    domains = load_space(space).domains
    pool = pool_experiment(experiment, domains)
    values = baseline_values(pool, domains, unlike_pool(experiment, pool))
    assert set(values) >= set(domains)
    assert trial_experiment(pool, values) == experiment


OWN = ["distillation.objective=docs.examples.mine:SquaredError", "perturbation.kind=none"]
PAIRS = [*OWN, "distillation.pairs_members=true"]


def test_an_objective_of_ones_own_that_pairs_members_has_as_many_teachers_as_members_in_every_trial() -> None:
    space = {"student.members": choice(2, 6)}
    trial = trial_experiment(pool_experiment(load_experiment("digits", PAIRS), space), {"student.members": 2})
    assert trial.teacher_count == 2
    trial = trial_experiment(pool_experiment(load_experiment("digits", OWN), space), {"student.members": 2})
    assert trial.teacher_count == 6


def test_only_one_that_pairs_members_may_have_teachers_in_rotation_or_wants_as_many() -> None:
    rotating = ["distillation.assignment=rotating", "student.members=2"]
    experiment = load_experiment("digits", [*PAIRS, *rotating])
    check_networks(experiment, a_description(num_classes=10, image_shape=(1, 8, 8)))
    with pytest.raises(ExperimentError, match="rotating is about members that are paired"):
        load_experiment("digits", [*OWN, *rotating])
    with pytest.raises(ExperimentError, match=r"student\.members is 2 but there are 4 teachers"):
        load_experiment("digits", [*PAIRS, "student.members=2"])


def test_a_space_may_have_it_beside_built_in_objectives() -> None:
    objectives = ("docs.examples.mine:SquaredError", "mean_kd")
    space = {"distillation.objective": choice(*objectives), "student.members": choice(2)}
    pool = pool_experiment(load_experiment("digits", PAIRS), space)
    own, built_in = (
        trial_experiment(pool, {"distillation.objective": name, "student.members": 2}) for name in objectives
    )
    assert (own.teacher_count, built_in.teacher_count) == (2, 4)
