import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import (
    MemoryStore,
    checkpoints_in,
    label_run,
    made_up_data,
    student_run,
    untrained_teachers,
)

from ekd_train.data.augment import as_float, augment
from ekd_train.data.sampler import epoch_order, global_batches
from ekd_train.distributed import Workers
from ekd_train.evaluation.diversity import diversity
from ekd_train.models.batch_ensemble import factors
from ekd_train.objectives import METHOD_OBJECTIVES, label_ce
from ekd_train.perturbations import PERTURBATIONS
from ekd_train.settings import Augmentation, TrainingRun
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Silent
from ekd_train.training.speed import computing

PLAIN = {
    **{"momentum": 0.0, "nesterov": False, "schedule": {"kind": "constant"}, "learning_rate": 0.1},
    "speed": {"precision": "float32"},  # as the same by hand
}


def loop_of(run: TrainingRun) -> Loop:
    data = made_up_data()
    teachers = untrained_teachers(data, len(run.teachers)) if run.teachers else None
    return Loop(run, data, checkpoints_in(MemoryStore(), run), Silent(), Workers(), teachers)


def first_batch(loop: Loop):
    rows = torch.from_numpy(global_batches(epoch_order(0, 1, 28), 7))[0]
    return rows, loop.batches.draw(0, rows)


def without_augmentation(run: TrainingRun) -> TrainingRun:
    return run.model_copy(update={"augmentation": Augmentation()})


def test_a_label_step_is_sgd_on_the_mean_cross_entropy_with_decay():
    loop = loop_of(without_augmentation(label_run(weight_decay=0.01, **PLAIN)))
    network = loop.step.trainee.network
    by_hand = copy.deepcopy(network).train()
    rows, batch = first_batch(loop)
    loop.step.optimiser.param_groups[0]["lr"] = 0.1
    losses = loop.step(batch)

    images, labels = loop.data.train.images[rows], loop.data.train.labels[rows]
    loss = F.cross_entropy(by_hand(as_float(images)), labels)
    loss.backward()
    torch.testing.assert_close(losses["loss"], loss.detach())
    for (name, moved), start in zip(network.named_parameters(), by_hand.parameters(), strict=True):
        expected = start.detach() - 0.1 * (start.grad + 0.01 * start.detach())
        torch.testing.assert_close(moved.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_a_members_factors_move_as_if_the_loss_were_its_own():
    """The xM rule undoes the mean over members: a factor's step does not shrink with more of them."""
    run = without_augmentation(student_run("latent_be", weight_decay=0.0, **PLAIN))
    loop = loop_of(run)
    network = loop.step.trainee.network
    by_hand = copy.deepcopy(network).train()
    rows, batch = first_batch(loop)
    for group in loop.step.optimiser.param_groups:
        group["lr"] = 0.1
    loop.step(batch)

    images = as_float(loop.data.train.images[rows])
    targets = (loop.teachers(images) / 4.0).softmax(-1)  # type: ignore[misc]
    logits = by_hand(images) / 4.0
    own = -(targets * logits.log_softmax(-1)).sum(-1).mean(-1) * 16.0
    own.sum().backward()
    for (name, moved), (_, start) in zip(factors(network), factors(by_hand), strict=True):
        expected = start.detach() - 0.1 * start.grad
        torch.testing.assert_close(moved.detach(), expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("perturbation", ["none", "gaussian", "ods", "conf_ods", "tdiv", "tdiv_sdiv"])
def test_a_step_leaves_the_teachers_alone(perturbation):
    loop = loop_of(student_run("latent_be", perturbation))
    assert loop.teachers is not None
    before = copy.deepcopy(loop.teachers.state_dict())
    loop.step(first_batch(loop)[1])
    assert all(torch.equal(before[name], tensor) for name, tensor in loop.teachers.state_dict().items())
    assert all(parameter.grad is None for parameter in loop.teachers.parameters())


def test_the_terms_of_the_loss_are_returned_without_a_graph():
    loop = loop_of(student_run("batch_ensemble", "conf_ods", alpha=0.9))
    losses = loop.step(first_batch(loop)[1])
    shown = {
        f"{who}_diversity/{key}" for who in ("teachers", "members") for key in ("pairwise_kl", "agreement")
    }
    assert set(losses) == {"loss", "label", "distillation"} | shown
    assert not any(value.requires_grad for value in losses.values())
    mixed = 0.1 * losses["label"] + 0.9 * losses["distillation"]
    torch.testing.assert_close(losses["loss"], mixed)


@pytest.mark.parametrize(
    ("kind", "strength", "times"), [("conf_ods", 1, 2), ("conf_ods", 0, 1), ("none", 1, 1)]
)
def test_a_student_is_evaluated_on_clean_images_too_only_where_others_differ(kind, strength, times):
    run = student_run("batch_ensemble", kind, alpha=0.9)
    perturbation = run.perturbation.model_copy(update={"strength": strength})
    loop = loop_of(run.model_copy(update={"perturbation": perturbation}))
    network, evaluated = loop.step.trainee.network, []
    network.register_forward_hook(lambda _, images, logits: evaluated.append((images[0], logits)))
    _, batch = first_batch(loop)
    told = loop.step(batch)["label"]
    assert len(evaluated) == times
    images, logits = evaluated[-1]
    torch.testing.assert_close(images, augment(batch.images, batch.augmentation))
    torch.testing.assert_close(told, label_ce(logits, batch.labels).detach())
    counts = {
        layer.num_batches_tracked.item() for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)
    }
    assert counts == {times}


@pytest.mark.parametrize(
    ("kind", "alpha", "same"), [("none", 0.5, True), ("conf_ods", 1, True), ("conf_ods", 0.9, False)]
)
def test_batch_ensemble_is_latent_be_but_where_labels_judge_clean_images_beside_perturbed_ones(
    kind, alpha, same
):
    weights = []
    for method in ("latent_be", "batch_ensemble"):
        loop = loop_of(student_run(method, kind, alpha=alpha))
        for group in loop.step.optimiser.param_groups:
            group["lr"] = 0.1
        loop.step(first_batch(loop)[1])
        weights.append(loop.step.trainee.state_dict())
    ours, theirs = weights
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in ours) is same


def test_a_step_tells_how_much_teachers_and_members_disagree_on_the_images_it_trained_on():
    loop = loop_of(without_augmentation(student_run("latent_be")))
    assert loop.teachers is not None
    by_hand = copy.deepcopy(loop.step.trainee.network).train()
    rows, batch = first_batch(loop)
    images = as_float(loop.data.train.images[rows])
    told = loop.step(batch)
    for who, network in (("teachers", loop.teachers), ("members", by_hand)):
        with torch.no_grad():
            expected = diversity(network(images).softmax(-1))
        assert {key: float(told[f"{who}_diversity/{key}"]) for key in expected} == pytest.approx(
            expected, rel=1e-3
        )
    assert told["teachers_diversity/pairwise_kl"] > 0


def test_without_several_networks_nothing_is_told_of_their_diversity():
    loop = loop_of(label_run())
    assert set(loop.step(first_batch(loop)[1])) == {"loss", "label"}
    loop = loop_of(student_run("kd"))
    assert not any(name.startswith("members") for name in loop.step(first_batch(loop)[1]))


def test_every_parameter_learns():
    for run in (
        label_run(),
        student_run("latent_be"),
        student_run("ekd", distillation={"ekd": {"feature": 1.0}}),
    ):
        loop = loop_of(run)
        before = copy.deepcopy(loop.step.trainee.state_dict())
        for group in loop.step.optimiser.param_groups:
            group["lr"] = 0.1
        loop.step(first_batch(loop)[1])
        still = [n for n, p in loop.step.trainee.named_parameters() if torch.equal(before[n], p)]
        assert still == []


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (method, kind)
        for method in METHOD_OBJECTIVES
        for kind in PERTURBATIONS
        # A plain student has no members to compare.
        if not (method == "kd" and PERTURBATIONS[kind].needs_student)
    ],
)
def test_in_bfloat16_every_weight_gets_a_gradient_whatever_was_evaluated_without_before(method, kind):
    loop = loop_of(student_run(method, kind, alpha=0.9, speed={"precision": "bfloat16"}))
    if method == "lora":  # B begins at 0, and through it no gradient reaches A
        loop.step(first_batch(loop)[1])
    loop.step(first_batch(loop)[1])
    without = [n for n, p in loop.step.trainee.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_the_training_forward_shares_no_autocast_context_with_the_perturbation(monkeypatch):
    """Autocast may keep what it converted without gradients until its context ends (PyTorch 2.9 does)."""
    entered = []
    loop = loop_of(student_run("latent_be", "tdiv_sdiv", speed={"precision": "bfloat16"}))

    def entering(speed, device):
        entered.append(0)
        return computing(speed, device)

    monkeypatch.setattr("ekd_train.training.step.computing", entering)
    network, calls = loop.step.trainee.network, []
    network.register_forward_pre_hook(lambda module, _: calls.append((module.training, len(entered))))
    loop.step(first_batch(loop)[1])
    perturbing = {context for training, context in calls if not training}
    learning = {context for training, context in calls if training}
    assert perturbing
    assert learning
    assert not perturbing & learning
