"""What every kind of perturbation promises, whatever it follows."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from networks_under_watch import SHAPE, VALUES, Linear, LinearMembers, Normalised, images
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.models.teachers import Teachers
from ekd_train.perturbations import PERTURBATIONS, apply, draw, perturb
from ekd_train.perturbations.ascent import evaluation_mode, one_grey_level
from ekd_train.settings import PerturbationKind

KINDS = list(PERTURBATIONS)
GRADIENT_KINDS = ["ods", "conf_ods", "tdiv", "tdiv_sdiv"]


def linear_networks(**options) -> dict:
    return {
        "teachers": [Linear(seed, **options) for seed in range(4)],
        "student": LinearMembers([Linear(seed, **options) for seed in range(10, 14)]),
        "temperature": 2.0,
    }


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_networks(networks: dict) -> list[nn.Module]:
    return [*networks["teachers"], *networks["student"].members]


def test_the_table_has_every_kind_that_settings_allow():
    assert set(PERTURBATIONS) == set(get_args(PerturbationKind))


def test_kinds_say_which_networks_they_need():
    assert [kind for kind in KINDS if PERTURBATIONS[kind].drawn_teachers] == GRADIENT_KINDS
    assert [kind for kind in KINDS if PERTURBATIONS[kind].needs_student] == ["tdiv_sdiv"]


@pytest.mark.parametrize(
    ("kind", "evaluations", "differentiated"),
    [
        ("none", 0, 0),
        ("gaussian", 0, 0),
        ("ods", 1, 1),
        ("conf_ods", 1, 1),
        ("tdiv", 2, 1),
        ("tdiv_sdiv", 4, 2),
    ],
)
def test_only_the_needed_networks_are_evaluated_once_and_differentiated_if_they_carry_gradient(
    kind, evaluations, differentiated
):
    networks = linear_networks()
    perturb(images(), kind=kind, strength=1.0, generator=generator(), **networks)
    counted = all_networks(networks)
    assert sum(network.evaluations for network in counted) == evaluations
    assert sum(network.differentiated for network in counted) == differentiated
    assert max(network.evaluations for network in counted) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_exactly_the_clean_image_and_evaluates_nothing(kind):
    networks, clean = linear_networks(), images()
    assert torch.equal(perturb(clean, kind=kind, strength=0.0, generator=generator(), **networks), clean)
    assert sum(network.evaluations for network in all_networks(networks)) == 0


def test_none_is_exactly_the_clean_image_at_any_strength():
    clean = images()
    perturbed = perturb(clean, kind="none", strength=3.0, generator=generator(), **linear_networks())
    assert torch.equal(perturbed, clean)


@pytest.mark.parametrize("kind", ["ods", "tdiv", "tdiv_sdiv"])
@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
def test_the_step_is_as_long_as_a_change_of_strength_grey_levels_in_every_value(kind, strength):
    clean = images()
    perturbed = perturb(clean, kind=kind, strength=strength, generator=generator(), **linear_networks())
    lengths = (perturbed - clean).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, strength * VALUES**0.5 / 255))


@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_between_0_and_1(kind):
    clean = torch.rand(6, *SHAPE).round().double()
    perturbed = perturb(clean, kind=kind, strength=50.0, generator=generator(), **linear_networks())
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_of_the_batch_among_workers_gives_the_same_images(kind):
    networks, clean = linear_networks(), images(7)
    choices = draw(kind, generator(), batch_size=7, num_teachers=4)
    whole = apply(kind, clean, choices, strength=2.0, **networks)
    for cuts in ([0, 3, 7], [0, 1, 2, 6, 7]):
        shares = [
            apply(kind, clean[start:stop], choices.rows(start, stop), strength=2.0, **networks)
            for start, stop in pairwise(cuts)
        ]
        torch.testing.assert_close(torch.cat(shares), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_perturb_is_draw_then_apply_and_repeats_with_the_generators_seed(kind):
    networks, clean = linear_networks(), images()
    once = perturb(clean, kind=kind, strength=1.0, generator=generator(3), **networks)
    again = perturb(clean, kind=kind, strength=1.0, generator=generator(3), **networks)
    choices = draw(kind, generator(3), batch_size=len(clean), num_teachers=4)
    assert torch.equal(once, again)
    assert torch.equal(once, apply(kind, clean, choices, strength=1.0, **networks))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_successive_batches_are_perturbed_differently(kind):
    networks, clean, source = linear_networks(), images(), generator()
    first, second = (perturb(clean, kind=kind, strength=1.0, generator=source, **networks) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_are_left_as_they_were(kind):
    teachers = [Normalised(seed).train() for seed in range(2)]
    student = LinearMembers([Normalised(seed) for seed in (2, 3)]).train()
    student.members[0].norm.eval()  # a mode of its own, which must survive
    everything = nn.ModuleList([*teachers, student])
    state = {key: value.clone() for key, value in everything.state_dict().items()}
    modes = [module.training for module in everything.modules()]
    arguments = {"teachers": teachers, "student": student, "temperature": 1.0}

    clean = images(dtype=torch.float32)
    first, second = (
        perturb(clean, kind=kind, strength=1.0, generator=generator(), **arguments) for _ in range(2)
    )

    assert torch.equal(first, second)  # dropout was off
    assert all(torch.equal(value, state[key]) for key, value in everything.state_dict().items())
    assert [module.training for module in everything.modules()] == modes
    assert all(parameter.grad is None for parameter in everything.parameters())


def test_modes_are_restored_when_an_evaluation_fails():
    network = Normalised(0).train()
    network.norm.eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), evaluation_mode(network):
        network.head(torch.zeros(1, 3))
    assert (network.training, network.norm.training, network.dropout.training) == (True, False, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_callers_no_grad_changes_nothing(kind, context):
    networks, clean = linear_networks(), images()
    expected = perturb(clean, kind=kind, strength=1.0, generator=generator(), **networks)
    with context():
        actual = perturb(clean.clone(), kind=kind, strength=1.0, generator=generator(), **networks)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_detached_even_from_images_that_require_gradients(kind):
    clean = images().requires_grad_()
    perturbed = perturb(clean, kind=kind, strength=1.0, generator=generator(), **linear_networks())
    assert not perturbed.requires_grad
    assert clean.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_channels_last_are_kept(kind):
    clean = images(dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    networks = linear_networks(dtype=torch.float32)
    expected = perturb(clean, kind=kind, strength=1.0, generator=generator(), **networks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        perturbed = perturb(clean, kind=kind, strength=1.0, generator=generator(), **networks)
    assert perturbed.dtype == torch.float32
    assert perturbed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(perturbed, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
def test_networks_that_do_not_react_to_the_image_leave_it_alone(kind):
    clean = images()
    perturbed = perturb(clean, kind=kind, strength=5.0, generator=generator(), **linear_networks(scale=0.0))
    assert torch.equal(perturbed, clean)


def test_a_tiny_gradient_gives_a_full_step_and_a_zero_gradient_beside_it_none():
    gradient = torch.zeros(2, *SHAPE)
    gradient[0] = 1e-30 * torch.randn(SHAPE, generator=generator())  # squares underflow in float32
    step = one_grey_level(gradient)
    assert step[0].norm().item() == pytest.approx(VALUES**0.5 / 255, rel=1e-5)
    assert torch.equal(step[1], torch.zeros(SHAPE))


def test_teachers_may_be_a_list_a_module_list_or_frozen_teachers():
    networks, clean = linear_networks(), images()
    as_list = perturb(clean, kind="tdiv_sdiv", strength=1.0, generator=generator(), **networks)
    for wrapped in (nn.ModuleList(networks["teachers"]), Teachers(networks["teachers"])):
        arguments = networks | {"teachers": wrapped}
        actual = perturb(clean, kind="tdiv_sdiv", strength=1.0, generator=generator(), **arguments)
        assert torch.equal(actual, as_list)


def test_a_real_batch_ensemble_and_real_teachers_are_perturbed_and_untouched():
    torch.manual_seed(0)
    teachers = Teachers(
        [build_model("wide_resnet", depth=10, width=1, num_classes=10, image_size=8) for _ in "ab"]
    )
    plain = build_model("wide_resnet", depth=10, width=1, num_classes=10, image_size=8)
    student = to_batch_ensemble(plain, 2, init="normal").train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    clean = 0.25 + torch.rand(4, 3, 8, 8, generator=generator()) / 2
    perturbed = perturb(
        clean,
        kind="tdiv_sdiv",
        strength=1.0,
        teachers=teachers,
        student=student,
        temperature=4.0,
        generator=generator(),
    )
    lengths = (perturbed - clean).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, (3 * 8 * 8) ** 0.5 / 255), rtol=1e-4, atol=0)
    assert student.training
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_arguments_that_make_no_sense_are_refused_with_what_to_do():
    networks, clean = linear_networks(), images()

    def attempt(**changes):
        arguments = {"kind": "tdiv_sdiv", "strength": 1.0, "generator": generator()} | networks | changes
        return perturb(clean, **arguments)

    with pytest.raises(ValueError, match="unknown perturbation 'tdif'; known: none, gaussian"):
        attempt(kind="tdif")
    with pytest.raises(ValueError, match="strength must be at least 0"):
        attempt(strength=-1.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        attempt(kind="ods", temperature=0.0)
    with pytest.raises(ValueError, match="give it at least 2 teachers"):
        attempt(kind="tdiv", teachers=networks["teachers"][:1])
    with pytest.raises(ValueError, match="give it at least 1 teachers"):
        attempt(kind="ods", teachers=[])
    for student in (None, Linear(0), LinearMembers([Linear(0)])):
        with pytest.raises(ValueError, match=r"as many members as teachers .* or choose .* tdiv"):
            attempt(student=student)
    choices = draw("gaussian", generator(), batch_size=4, num_teachers=0)
    with pytest.raises(ValueError, match="choices for 4 images, but there are 6"):
        apply("gaussian", clean, choices, strength=1.0)
