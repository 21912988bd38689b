import pytest
import torch

from ekd_train.evaluation.perturbation_effect import perturbation_effect
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.settings import (
    Architecture,
    Distillation,
    PerturbationSettings,
    Student,
    Training,
    TrainingRun,
)


def a_run(**perturbation) -> TrainingRun:
    return TrainingRun(
        name="student",
        role="student",
        seed=0,
        architecture=Architecture(),
        training=Training(),
        student=Student(),
        distillation=Distillation(),
        perturbation=PerturbationSettings(**perturbation),
    )


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    plain = [
        build_model("wide_resnet", depth=10, num_classes=4, in_channels=1, stem_channels=4) for _ in "ab"
    ]
    student = to_batch_ensemble(plain[0], 2, "normal").eval()
    return plain, student


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(60, 200, (10, 1, 8, 8), generator=generator).to(torch.uint8), torch.arange(10) % 4


def test_it_keeps_images_and_what_teachers_and_members_made_of_both(networks, images):
    effect = perturbation_effect(a_run(kind="tdiv_sdiv", strength=2.0), *networks, *images)
    change = 255 * (effect["perturbed"] - effect["clean"])
    assert change.square().mean(dim=(1, 2, 3)).sqrt().tolist() == pytest.approx([2.0] * 6, rel=1e-3)
    for who, count in (("teachers", 2), ("members", 2)):
        clean, perturbed = effect[f"{who}/clean"], effect[f"{who}/perturbed"]
        assert clean.shape == perturbed.shape == (count, 10, 4)
        assert torch.allclose(clean.sum(-1), torch.ones(count, 10))
        assert not torch.equal(clean, perturbed)


def test_the_same_run_gives_the_same_examples(networks, images):
    run = a_run(kind="gaussian")
    one, two = (perturbation_effect(run, *networks, *images)["perturbed"] for _ in "12")
    assert torch.equal(one, two)


@pytest.mark.parametrize("perturbation", [{"kind": "none"}, {"kind": "tdiv", "strength": 0.0}])
def test_without_a_perturbation_there_is_nothing_to_show(networks, images, perturbation):
    assert perturbation_effect(a_run(**perturbation), *networks, *images) == {}


def test_a_plain_student_has_no_members(networks, images):
    effect = perturbation_effect(a_run(kind="tdiv"), networks[0], networks[0][0].eval(), *images)
    assert "teachers/clean" in effect
    assert "members/clean" not in effect
