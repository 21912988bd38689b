"""The stage `average`: from a trained student in storage to the plain network of its members' weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_runs import a_description

from ekd_train.models.build_network import averaged, build_network
from ekd_train.persistence.records import MemberWeights, NetworkRecord
from ekd_train.settings import MemberWeighing
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.stages.average import average, averaged_student
from orchestrator.storage.local import LocalStorage

STUDENT = "student={members: 2, architecture: {name: wide_resnet, depth: 10, stem_channels: 2}, average: %s}"


@pytest.fixture(params=["mean", "picked"])
def context(request, tmp_path) -> Any:
    """Of a run whose student is trained; `asked` is what worker groups were asked for."""
    experiment = load_experiment("digits", ["teachers.count=2", STUDENT % request.param])
    storage, description = LocalStorage(tmp_path), a_description(num_classes=10)
    networks = networks_of(storage.child("mine"), "mine", experiment, description)
    run = experiment.student_run()
    torch.manual_seed(0)
    student = build_network(run, description)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    networks.save(run, student, NetworkRecord(identity=networks.identity(run), trained_by="mine"))
    asked: list[Any] = []

    def wait(jobs):
        asked.extend(jobs)
        return [MemberWeights(member_weights=(0.25, 0.75)) for _ in jobs]

    said: list[str] = []
    return SimpleNamespace(
        checked=SimpleNamespace(
            experiment=experiment, storage=storage.child("mine"), description=description
        ),
        networks=networks,
        manifest=SimpleNamespace(content=SimpleNamespace(result_hash="h", averaged=None)),
        view=SimpleNamespace(warn=said.append),
        wait=wait,
        student=student,
        asked=asked,
        said=said,
    )


def test_it_is_the_mean_or_of_the_weights_that_a_worker_group_found(context):
    made = average(context)
    weights = made.member_weights
    if context.checked.experiment.student.average == "mean":
        assert (weights, context.asked) == ((), [])
    else:
        assert weights == (0.25, 0.75)
        assert context.asked == [MemberWeighing(student=context.checked.experiment.student_run())]
    expected = averaged(context.student, torch.tensor(weights) if weights else None).state_dict()
    for name, tensor in averaged_student(context).state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert context.said == []


def test_members_that_count_alike_are_told_as_the_mean(context):
    context.wait = lambda jobs: [MemberWeights(member_weights=(0.5, 0.5)) for _ in jobs]
    assert average(context).member_weights == ()


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_average_is_made_again(context, harm):
    context.manifest.content.averaged = average(context)
    context.asked.clear()
    key = "networks/averaged.safetensors"
    before = context.checked.storage.read(key)
    if harm == "cut":
        context.checked.storage.write(key, before[: len(before) // 2])
    else:
        context.checked.storage.delete(key)
    averaged_student(context)
    assert context.checked.storage.read(key) == before
    assert context.asked == [context.checked.experiment.student_run()]  # and not for weights that are known
    (said,) = context.said
    assert "averaged" in said
    assert said.endswith("the student is averaged again")
