"""What `ekd plan` and `ekd run` warn of, though it is possible."""

import pytest
import torch
from torchvision import models

from ekd_train.objectives import Predictions, build_objective
from ekd_train.settings import Distillation
from orchestrator.experiment.packaged import packaged_experiments
from orchestrator.experiment.schema import load_experiment
from orchestrator.experiment.smoke import make_small
from orchestrator.planning.doubts import doubts


def test_a_warm_up_that_never_ends_is_doubted_and_others_are_not():
    for name in packaged_experiments():
        experiment = load_experiment(name, ["data.root=anywhere"])
        assert not doubts(experiment, (), 50_000), name
    hasty = ["teachers.training.epochs=5", "student.factors.warmup_epochs=200"]
    experiment = load_experiment("digits", hasty)
    finding, teacher, student = doubts(experiment, ("an image is odd",), 2000)
    assert finding == "an image is odd"
    assert "teachers.training.schedule.warmup_epochs=5 is not over before the last of 5 epochs" in teacher
    assert "student.factors.warmup_epochs=200" in student


def test_so_few_steps_that_nothing_is_learned_are_doubted_but_in_a_smoke_run():
    few = ["batch_size=128", "epochs=3", "schedule.warmup_epochs=0"]
    experiment = load_experiment("digits", [f"student.training.{setting}" for setting in few])
    assert doubts(experiment, (), 138) == [
        "student.training: 138 images in batches of 128 are 3 steps in 3 epochs, and networks learn in "
        "hundreds: lower batch_size, or raise epochs"
    ]
    assert not doubts(make_small(experiment), ("an image is odd",), 138)
    start = ["student.architecture={name: resnet18, weights: trained.pth}"]
    few_from_weights = [f"student.training.{setting}" for setting in few]
    assert not doubts(load_experiment("digits", [*few_from_weights, *start]), (), 138)


def test_networks_that_are_hardly_pulled_together_are_doubted():
    papa = ["evaluation.controls=[papa]", "student.training.epochs=200", "student.training.batch_size=64"]
    (line,) = doubts(load_experiment("digits", papa), (), 200)
    assert "control-papa's networks are pulled together 60 times by 1 %, too little to be averaged" in line
    assert not doubts(load_experiment("digits", [*papa, "student.papa={every: 1, rate: 0.02}"]), (), 200)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("distillation.dkd.non_target=4", "distillation.dkd.non_target does nothing: "),
        ("distillation.ekd.label=2", "distillation.ekd.label does nothing: "),
        ("student.lora.rank=4", "student.lora.rank does nothing: student.method=latent_be does not read"),
        ("student.branches.split=group2", "student.branches.split does nothing: student.method=latent_be"),
        ("student.papa.every=5", "student.papa.every does nothing: student.method=latent_be"),
    ],
)
def test_settings_that_nothing_reads_are_doubted(setting, line):
    (doubt,) = doubts(load_experiment("digits", [setting]), (), 2000)
    assert doubt.startswith(line)
    assert not doubts(load_experiment("digits", [setting]), (), 2000, ["student.method"])


def test_weights_of_members_are_doubted_of_a_plain_student():
    plain = ["student.method=kd", "perturbation.kind=none", "student.average=picked"]
    (doubt,) = doubts(load_experiment("digits", plain), (), 2000)
    assert doubt.startswith("student.average=picked does nothing")
    assert not doubts(load_experiment("digits", ["student.average=picked"]), (), 2000)


def test_settings_that_something_reads_are_not():
    used = {
        "distillation.dkd.non_target=4": ["distillation.objective=dkd"],
        "student.papa.every=5": ["evaluation.controls=[papa]"],
        "distillation.ekd.label=2": ["distillation.objective=docs.examples.mine:SquaredError"],
    }
    for setting, reader in used.items():
        assert not doubts(load_experiment("digits", [setting, *reader]), (), 200_000), setting


def test_a_student_of_ekd_whose_gradients_shall_not_be_clipped_is_doubted():
    ekd = ["student.method=ekd", "perturbation.kind=none"]
    unclipped = "student.training.clip_norm=null"
    (doubt,) = doubts(load_experiment("digits", [*ekd, unclipped]), (), 2000)
    assert "leave it out, or set it to 3" in doubt
    for mended in ([], [unclipped, "distillation.ekd.reduction=mean"]):
        assert not doubts(load_experiment("digits", [*ekd, *mended]), (), 2000)


def test_z_scores_of_a_head_that_begins_with_zeros_are_doubted_unless_gradients_are_clipped():
    z_scores, unclipped = "distillation.standardise=true", "student.training.clip_norm=null"

    def told(*settings):
        return doubts(load_experiment("vit_fine_tune", ["data.root=anywhere", *settings]), (), 50_000)

    (doubt,) = told(z_scores, unclipped)
    assert doubt.startswith("distillation.standardise: torchvision's vit_b_16 begins with zeros")
    assert not told(z_scores)  # clipped at 1, as packaged
    assert not told(unclipped)
    assert not doubts(load_experiment("digits", [z_scores, unclipped]), (), 2000)


def test_that_head_does_begin_with_zeros_and_z_scores_of_it_have_such_gradients():
    network = models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=5)
    logits = network(torch.rand(2, 3, 32, 32))
    assert logits.eq(logits[:, :1]).all()
    student = logits.detach()[None].requires_grad_()
    objective = build_objective("mean_kd", Distillation(standardise=True))
    teachers = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    objective(Predictions(torch.tensor([0, 1]), student, teachers))["loss"].backward()
    assert student.grad.norm() > 1e6
