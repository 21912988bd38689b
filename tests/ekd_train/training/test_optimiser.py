"""The optimiser's groups, and the rule for the gradients of BatchEnsemble factors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ekd_train.models.batch_ensemble import factors as factors_of
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.objectives import mean_kd, member_kd
from ekd_train.settings import Factors, Training
from ekd_train.training.optimiser import adjust_factor_gradients, build_optimiser, set_learning_rate

TRAINING = Training(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
MEMBERS, TEMPERATURE = 4, 4.0


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).double()


def images_and_teacher() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(7, 3, 6, 6, generator=generator, dtype=torch.float64)
    return images, 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)


def names(network: nn.Module, group: dict) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


def test_a_plain_network_has_one_group_that_decays_biases_and_batch_norm_too():
    network = plain_network()
    (shared,) = build_optimiser(network, TRAINING, None).param_groups
    assert names(network, shared) == set(dict(network.named_parameters()))
    assert (shared["weight_decay"], shared["lr"], shared["nesterov"]) == (0.01, 0.1, True)


def test_factors_are_apart_and_do_not_decay_in_the_optimiser():
    student = to_batch_ensemble(plain_network(), MEMBERS, member_bias=True)
    shared, factors = build_optimiser(student, TRAINING, Factors()).param_groups
    assert names(student, factors) == {name for name, _ in factors_of(student)}
    replaced = {"shared.5.layer.bias"}  # by the biases per member
    assert (
        names(student, shared) == set(dict(student.named_parameters())) - names(student, factors) - replaced
    )
    assert any("member_bias" in name for name in names(student, shared))
    assert (shared["weight_decay"], factors["weight_decay"]) == (0.01, 0.0)


def test_frozen_parameters_are_left_out():
    network = plain_network()
    network[0].requires_grad_(False)
    (shared,) = build_optimiser(network, TRAINING, None).param_groups
    assert "0.weight" not in names(network, shared)


def test_factors_without_settings_are_refused():
    with pytest.raises(ValueError, match="factors, so their settings are needed"):
        build_optimiser(to_batch_ensemble(plain_network(), 2), TRAINING, None)


def test_nesterov_without_momentum_is_plain_descent():
    (group,) = build_optimiser(plain_network(), Training(momentum=0.0), None).param_groups
    assert not group["nesterov"]


def test_schedule_multiplier_and_factor_warm_up_set_the_learning_rates():
    student = to_batch_ensemble(plain_network(), MEMBERS)
    optimiser = build_optimiser(student, TRAINING, Factors(learning_rate_multiplier=0.5))

    def rates() -> list[float]:
        return [group["lr"] for group in optimiser.param_groups]

    assert rates() == pytest.approx([0.1, 0.05])
    set_learning_rate(optimiser, 0.4, factor_warmup=0.25)
    assert rates() == pytest.approx([0.04, 0.005])
    set_learning_rate(optimiser, 1.0)
    assert rates() == pytest.approx([0.1, 0.05])


def test_with_identical_members_and_teachers_a_scaled_factor_gradient_is_the_plain_chain_rules():
    images, teacher = images_and_teacher()
    plain = plain_network()
    student = to_batch_ensemble(plain, MEMBERS)
    optimiser = build_optimiser(student, TRAINING, Factors(decay="none"))

    plain_loss = mean_kd(plain(images), teacher[None], temperature=TEMPERATURE)
    plain_loss.backward()
    loss = member_kd(student(images), teacher.expand(MEMBERS, -1, -1), temperature=TEMPERATURE)
    loss.backward()
    adjust_factor_gradients(optimiser)

    torch.testing.assert_close(loss, plain_loss)
    gradients = {name.removeprefix("shared."): factor.grad for name, factor in factors_of(student)}
    for name in ("0", "5"):
        layer = plain.get_submodule(name)
        # The weight of a member is w · s rᵀ and its bias s · b, at r = s = 1.
        through_weight = (layer.weight.grad * layer.weight).flatten(2 if name == "0" else 1)
        through_weight = through_weight.sum(dim=2) if name == "0" else through_weight
        through_bias = 0 if layer.bias is None else layer.bias.grad * layer.bias
        for member in range(MEMBERS):
            torch.testing.assert_close(gradients[f"{name}.r"][member], through_weight.sum(dim=0))
            torch.testing.assert_close(
                gradients[f"{name}.s"][member], through_weight.sum(dim=1) + through_bias
            )


@pytest.mark.parametrize("gradient_scale", ["members", "one"])
@pytest.mark.parametrize("decay", ["toward_one", "none"])
def test_two_steps_follow_the_decoupled_formula_written_out(gradient_scale, decay):
    images, _ = images_and_teacher()
    labels = torch.arange(7) % 5
    settings = Factors(gradient_scale=gradient_scale, decay=decay, learning_rate_multiplier=0.5)
    student = to_batch_ensemble(
        plain_network(), MEMBERS, init="normal", generator=torch.Generator().manual_seed(0)
    )
    by_hand = copy.deepcopy(student)
    optimiser = build_optimiser(student, TRAINING, settings)

    def loss(network: nn.Module) -> torch.Tensor:
        return torch.stack([F.cross_entropy(member, labels) for member in network(images)]).mean()

    velocity = {name: torch.zeros_like(value) for name, value in by_hand.named_parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        loss(student).backward()
        adjust_factor_gradients(optimiser)
        optimiser.step()

        own = {name for name, _ in factors_of(by_hand)}
        gradients = torch.autograd.grad(loss(by_hand), list(by_hand.parameters()))
        with torch.no_grad():
            for (name, value), gradient in zip(by_hand.named_parameters(), gradients, strict=True):
                if name in own:
                    gradient = gradient * (MEMBERS if gradient_scale == "members" else 1)
                    gradient = gradient + (0.01 * (value - 1) if decay == "toward_one" else 0)
                else:
                    gradient = gradient + 0.01 * value
                velocity[name] = 0.9 * velocity[name] + gradient
                value -= (0.05 if name in own else 0.1) * (gradient + 0.9 * velocity[name])

    for (name, actual), expected in zip(student.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda text, name=name: f"{name}: {text}")


def test_factors_without_a_gradient_and_plain_networks_are_left_alone():
    student = to_batch_ensemble(plain_network(), MEMBERS)
    for network, settings in ((student, Factors()), (plain_network(), None)):
        optimiser = build_optimiser(network, TRAINING, settings)
        adjust_factor_gradients(optimiser)
        assert all(parameter.grad is None for parameter in network.parameters())


def test_the_state_of_a_resumed_optimiser_carries_its_groups():
    student = to_batch_ensemble(plain_network(), MEMBERS)
    saved = build_optimiser(student, TRAINING, Factors(learning_rate_multiplier=0.5))
    restored = build_optimiser(student, TRAINING, Factors(learning_rate_multiplier=0.5))
    restored.load_state_dict(saved.state_dict())
    set_learning_rate(restored, 0.5)
    assert [group["lr"] for group in restored.param_groups] == pytest.approx([0.05, 0.025])
