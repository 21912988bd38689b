"""What a recipe changes of a step: optimiser, clipping, parts of a batch, averages, labels, rates."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import (
    SMALL,
    MemoryStore,
    checkpoints_in,
    label_run,
    made_up_data,
    same_tensors,
    student_run,
    untrained_teachers,
    with_training,
)

from ekd_train.data.augment import augment
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.models.layers import depths, freeze
from ekd_train.models.stages import stages
from ekd_train.objectives import label_ce
from ekd_train.settings import Architecture, Augmentation, Factors, Optimiser, Training, TrainingRun
from ekd_train.training.loop import Loop
from ekd_train.training.optimiser import adjust_factor_gradients, build_optimiser
from ekd_train.training.recompute import blocks, recompute_activations
from ekd_train.training.reporter import Silent

FLOAT32 = {"precision": "float32"}
WITHOUT_BATCH_NORM = Architecture(name="squeezenet1_1")


def loop_of(run: TrainingRun, channels: int = 1, size: int = 8) -> Loop:
    data = made_up_data(channels=channels, size=size)
    teachers = untrained_teachers(data, len(run.teachers)) if run.teachers else None
    return Loop(run, data, checkpoints_in(MemoryStore(), run), Silent(), Workers(), teachers)


def stepped(loop: Loop, steps: int = 1) -> Loop:
    rows = loop.batches.of_epoch(1)
    for step in range(steps):
        loop._set_learning_rate(step + 1)
        loop.step(*loop.batches.parts(step, rows[step]))
    return loop


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loop.step.trainee.named_parameters()}


def test_adamw_is_torchs_with_decoupled_decay():
    settings = {
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "schedule": {"kind": "constant"},
        "speed": FLOAT32,
    }
    loop = loop_of(label_run(optimiser={"name": "adamw", "beta2": 0.9}, **settings))
    by_hand = copy.deepcopy(loop.step.trainee.network).train()
    reference = torch.optim.AdamW(by_hand.parameters(), lr=0.01, betas=(0.9, 0.9), weight_decay=0.1)
    for step, rows in enumerate(loop.batches.of_epoch(1)[:2]):
        batch = loop.batches.draw(step, rows)
        loop.step(batch)
        reference.zero_grad()
        F.cross_entropy(by_hand(augment(batch.images, batch.augmentation)), batch.labels).backward()
        reference.step()
    for ours, theirs in zip(loop.step.trainee.network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_lamb_steps_are_as_long_as_the_weights_they_change():
    """You et al. 2020, algorithm 2: without decay a step has the length lr ‖w‖, whatever the gradient's."""
    run = label_run(
        optimiser={"name": "lamb"}, weight_decay=0.1, learning_rate=0.01, schedule={"kind": "constant"}
    )
    loop = loop_of(run)
    before = weights(loop)
    after = weights(stepped(loop))
    name = next(n for n in before if before[n].ndim == 4)
    torch.testing.assert_close(
        (after[name] - before[name]).norm(), 0.01 * before[name].norm(), rtol=1e-3, atol=0
    )


def test_a_missing_timm_is_named_before_anything_starts(monkeypatch):
    monkeypatch.setattr("ekd_train.training.optimiser.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"lamb is timm's: pip install 'ekd\[timm\]', or use adamw"):
        build_optimiser(nn.Linear(2, 2), Training(optimiser=Optimiser(name="lamb")), None)


def test_decay_of_weights_alone_spares_biases_normalisations_and_members_biases():
    run = student_run("latent_be", student={"factors": {"member_bias": True}})
    network = build_network(run, made_up_data().spec)
    training = Training(optimiser=Optimiser(decay="weights"), weight_decay=0.1)
    optimiser = build_optimiser(network, training, Factors())
    decaying = {
        id(p) for group in optimiser.param_groups if group["weight_decay"] > 0 for p in group["params"]
    }
    found = {name for name, p in network.named_parameters() if id(p) in decaying}
    layers = {name for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert found == {f"{name}.weight" for name in layers}


def test_factors_decay_toward_one_beside_the_gradient_of_adamw():
    network = build_network(student_run("latent_be"), made_up_data().spec)
    training = Training(optimiser=Optimiser(name="adamw"), weight_decay=0.5, learning_rate=0.1)
    optimiser = build_optimiser(network, training, Factors())
    group = optimiser.param_groups[-1]
    for factor in group["params"]:
        factor.data.fill_(3.0)
        factor.grad = torch.ones_like(factor)
    adjust_factor_gradients(optimiser)
    for factor in group["params"]:
        torch.testing.assert_close(factor.detach(), torch.full_like(factor, 3 - 0.1 * 0.5 * (3 - 1)))
        assert factor.grad is not None
        assert factor.grad.eq(2).all()  # times the members, without the decay


def test_a_clipped_gradient_has_the_norm_asked_for_and_a_short_one_is_left_alone():
    settings = {"weight_decay": 0.0, "momentum": 0.0, "schedule": {"kind": "constant"}, "learning_rate": 1.0}
    moved = []
    for norm in (None, 1e-3, 1e6):
        loop = loop_of(label_run(clip_norm=norm, **settings))
        before = weights(loop)
        after = weights(stepped(loop))
        moved.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    plain, clipped, long = moved
    torch.testing.assert_close(clipped.norm(), torch.tensor(1e-3), rtol=1e-2, atol=0)
    torch.testing.assert_close(clipped / clipped.norm(), plain / plain.norm(), rtol=0, atol=1e-2)
    assert torch.equal(plain, long)


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_parts_of_a_batch_give_the_gradient_of_the_whole_where_there_is_no_batch_norm(parts):
    run = label_run(architecture=WITHOUT_BATCH_NORM, label_smoothing=0.1, speed=FLOAT32)
    found = []
    for accumulate in (1, parts):
        loop = loop_of(with_training(run, accumulate=accumulate), channels=3, size=32)
        rows = loop.batches.of_epoch(1)[0]
        taken = loop.batches.parts(0, rows)
        assert len(taken) == min(accumulate, len(rows))
        torch.manual_seed(0)
        loop.step.trainee.eval()  # without dropout, whose noise is of each part
        losses = loop.step(*taken)
        found.append((losses["loss"], [p.grad for p in loop.step.trainee.parameters()]))
    (whole_loss, whole), (loss, gradients) = found
    torch.testing.assert_close(loss, whole_loss)
    for ours, theirs in zip(gradients, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_moving_average_is_what_is_validated_and_kept():
    loop = loop_of(label_run(ema=0.75, learning_rate=0.1, schedule={"kind": "constant"}))
    name = next(n for n, p in loop.step.trainee.network.named_parameters() if p.ndim == 4)
    expected = None
    for step, rows in enumerate(loop.batches.of_epoch(1)):
        loop.step(loop.batches.draw(step, rows))
        now = loop.step.trainee.network.get_parameter(name).detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    torch.testing.assert_close(loop.step.kept.get_parameter(name), expected)
    loop._validate(1, {})
    assert same_tensors(loop.best_weights, loop.step.kept.state_dict())
    assert not torch.equal(loop.best_weights[name], loop.step.trainee.network.get_parameter(name))


def test_the_mean_of_the_last_epochs_is_validated_and_kept_once_it_has_begun():
    run = label_run(epochs=5, swa=0.5, learning_rate=0.1, schedule={"kind": "constant"})
    loop, ends = loop_of(run), []
    with loop.checkpoints.storing():
        while not loop.finished:
            loop.advance()
            ends.append({k: v.clone() for k, v in loop.step.trainee.network.state_dict().items()})
            taken = ends[2:] if len(ends) > 2 else ends[-1:]
            for name, value in loop.step.kept.state_dict().items():
                values = [end[name] for end in taken]
                expected = torch.stack(values).mean(0) if value.is_floating_point() else values[-1]
                torch.testing.assert_close(value, expected)


def test_two_averages_of_the_weights_are_refused():
    with pytest.raises(ValueError, match="ema and swa are two averages of the weights; use one"):
        label_run(swa=0.75, ema=0.9)


def test_label_smoothing_is_torchs():
    loop = loop_of(label_run(label_smoothing=0.2, speed=FLOAT32))
    by_hand = copy.deepcopy(loop.step.trainee.network).train()
    batch = loop.batches.draw(0, loop.batches.of_epoch(1)[0])
    told = loop.step(batch)["label"]
    expected = F.cross_entropy(
        by_hand(augment(batch.images, batch.augmentation)), batch.labels, label_smoothing=0.2
    )
    torch.testing.assert_close(told, expected.detach())


def test_probabilities_as_labels_are_a_mean_over_the_labels_they_mix():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    first, second = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 1, 0, 0])
    mixed = 0.3 * F.one_hot(first, 3) + 0.7 * F.one_hot(second, 3)
    expected = 0.3 * label_ce(logits, first) + 0.7 * label_ce(logits, second)
    torch.testing.assert_close(label_ce(logits, mixed), expected)


def test_each_layer_before_the_head_learns_slower():
    network = build_network(
        label_run(architecture=Architecture(name="resnet18")), made_up_data(channels=3).spec
    )
    optimiser = build_optimiser(network, Training(learning_rate=1.0, layer_decay=0.5), None)
    rates = {
        name: group["lr"]
        for group in optimiser.param_groups
        for name, parameter in network.named_parameters()
        if any(parameter is own for own in group["params"])
    }
    assert rates["network.fc.weight"] == rates["network.fc.bias"] == 1
    assert rates["network.layer4.1.conv2.weight"] == rates["network.layer4.0.bn1.bias"] == 0.5
    assert rates["network.layer1.0.conv1.weight"] == 0.5**4
    assert rates["network.conv1.weight"] == 0.5**6  # bn1 is between


def test_what_is_frozen_stays_as_it_was_with_its_batch_statistics():
    loop = loop_of(label_run(freeze=["backbone"], learning_rate=0.1))
    before = copy.deepcopy(loop.step.trainee.state_dict())
    loop.advance()
    after = loop.step.trainee.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    head = {name for name, _ in loop.step.trainee.named_parameters()}
    head = {name for name in head if depths(loop.step.trainee)[name] == 0}
    assert changed == head
    assert len(head) == 2


def test_a_part_that_is_not_there_is_named_with_those_that_are():
    network = build_network(label_run(), made_up_data().spec)
    with pytest.raises(ValueError, match=r"there is no .layer9.; there are backbone, .*group1"):
        freeze(network, ["layer9"])
    with pytest.raises(ValueError, match="not for the branches"):
        freeze(build_network(student_run("ekd"), made_up_data().spec), ["backbone"])


@pytest.mark.parametrize(
    "run",
    [
        label_run(architecture=Architecture(name="resnet18", small_images=True)),
        student_run("latent_be", architecture=SMALL),
        student_run("ekd", architecture=SMALL),
        student_run("lora", architecture=Architecture(name="swin_t")),
    ],
    ids=["plain", "BatchEnsemble", "branches", "members in turn, drop path"],
)
def test_activations_computed_again_give_the_same_gradients_and_statistics(run):
    data = made_up_data(train=7, channels=3, size=32)
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = build_network(run, data.spec).train()
        if again:
            recompute_activations(network)
        torch.manual_seed(1)
        network(data.train.images[:4] / 255).square().sum().backward()
        found.append(({n: p.grad for n, p in network.named_parameters()}, network.state_dict()))
    (plain, statistics), (recomputed, their_statistics) = found
    for name, gradient in plain.items():
        assert (gradient is None) == (recomputed[name] is None), name
        assert gradient is None or torch.equal(gradient, recomputed[name]), name
    assert same_tensors(statistics, their_statistics)


def test_blocks_are_what_stands_in_a_row():
    network = build_network(label_run(), made_up_data().spec)
    assert len(list(blocks(network))) == 3  # one a group: 6 n + 4 = 10
    assert list(stages(network))[1:4] == ["group1", "group2", "group3"]


@pytest.mark.parametrize("more", [{"mixup": 1}, {"crop": "random_resized"}, {"random_erasing": 0.1}])
def test_teachers_predictions_are_not_kept_of_images_that_are_new_in_every_step(more):
    run = student_run("latent_be").model_copy(update={"augmentation": Augmentation.model_validate(more)})
    assert run.why_not_cached() == "augmentation makes new images in every step"
    assert not run.sharing_predictions().training.speed.cache_teachers
