"""A user's own space: what is wrong with it is said in one line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.tuning.space import check_space, load_space

REASON = "reason: because"


def check(tmp_path: Path, domains: str, experiment: str = "digits") -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"description: mine\ndomains:\n{domains}\n")
    space = load_space(str(file))
    assert space.name == "mine"
    check_space(space, load_experiment(experiment))


def test_a_file_of_the_users_own_is_a_space(tmp_path: Path) -> None:
    check(tmp_path, f"  distillation.temperature: {{uniform: [1, 4], {REASON}}}")


@pytest.mark.parametrize(
    ("domains", "complaint"),
    [
        (f"  distilation.temperature: {{uniform: [1, 4], {REASON}}}", "did you mean distillation"),
        (f"  distillation.temperature: {{uniform: [0, 4], {REASON}}}", "temperature.*greater than"),
        (f"  distillation.alpha: {{uniform: [0.5, 1.5], {REASON}}}", "alpha.*less than or equal to 1"),
        (f"  student.members: {{uniform: [2, 4], {REASON}}}", "student.members"),
        (f"  perturbation.kind: {{choice: [none, fgsm], {REASON}}}", "perturbation.kind"),
        (f"  student.members: {{integer: [1, 4], {REASON}}}", "student.members=1.*tdiv_sdiv"),
        (f"  data.train_fraction: {{uniform: [0.1, 1], {REASON}}}", "same in all trials"),
        (f"  seed: {{integer: [0, 9], {REASON}}}", "same in all trials"),
        (f"  teachers.training.epochs: {{integer: [5, 9], {REASON}}}", "only teachers.count"),
        ("  distillation.alpha: {uniform: [0.5, 1]}", "and a reason"),
        (f"  distillation.alpha: {{normal: [0.5, 1], {REASON}}}", "give it choice, uniform"),
        (f"  distillation.alpha: {{uniform: [1, 0.5], {REASON}}}", "low < high"),
        (f"  student.members: {{choice: [2, 2], {REASON}}}", "there twice"),
        (f"  student.members: {{choice: [], {REASON}}}", "student.members"),
        ("  student.members: {choice: [2, four]}", "and a reason"),
        (f"  student.members: {{choice: [2, four], {REASON}}}", "student.members=four.*valid integer"),
        (f'  "student.\\n": {{uniform: [1, 4], {REASON}}}', r"'student.\\n': write a key as in"),
        (f"  teachers.count: {{choice: [4, null], {REASON}}}", "teachers.count=None"),
        (f"  student.training.epochs: {{choice: [2, four], {REASON}}}", "epochs=four.*valid integer"),
    ],
)
def test_what_is_wrong_with_a_space_is_named(tmp_path: Path, domains: str, complaint: str) -> None:
    with pytest.raises(ExperimentError, match=complaint) as caught:
        check(tmp_path, domains)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n", "mapping"),
        ("domains: [", "not valid YAML"),
        ("description: x\ndomains: {}\n", "domains"),
        ("description: x\ndescription: y\n", "line 2: the key 'description' stands twice"),
        ("description: [\n", "not valid YAML"),
        ("&a [*a]", "within itself"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ExperimentError, match=complaint):
        load_space(str(file))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_space("no/such.yaml")
