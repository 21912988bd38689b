"""Each kind's direction against gradients of linear networks, written down by hand in numpy."""

import numpy as np
import pytest
import torch
from networks_under_watch import CLASSES, VALUES, Linear, LinearMembers, images

from ekd_train.perturbations import apply, draw

TEACHERS = [Linear(seed) for seed in range(4)]
MEMBERS = [Linear(seed) for seed in range(10, 14)]
STRENGTH, TEMPERATURE = 2.0, 3.0
CLEAN = images()


def perturbed(kind: str, seed: int):
    generator = torch.Generator().manual_seed(seed)
    choices = draw(kind, generator, batch_size=len(CLEAN), num_teachers=len(TEACHERS))
    result = apply(
        kind,
        CLEAN,
        choices,
        strength=STRENGTH,
        teachers=TEACHERS,
        student=LinearMembers(MEMBERS),
        temperature=TEMPERATURE,
    )
    return choices, result


def weight(network: Linear) -> np.ndarray:
    return network.weight.detach().numpy()


def probs(network: Linear, temperature: float = 1.0) -> np.ndarray:
    logits = CLEAN.flatten(1).numpy() @ weight(network).T / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def step(gradient: np.ndarray, scale: np.ndarray | float = 1.0) -> torch.Tensor:
    direction = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    moved = CLEAN.flatten(1).numpy() + STRENGTH * np.sqrt(VALUES) / 255 * scale * direction
    return torch.from_numpy(np.clip(moved, 0, 1)).view_as(CLEAN)


def divergence_gradient(i: Linear, j: Linear) -> np.ndarray:
    """∇_x of -Σ_c sg(p_j,c) log p_i,c for logits W x: W_iᵀ (p_i - p_j)."""
    return (probs(i) - probs(j)) @ weight(i)


@pytest.mark.parametrize("seed", range(4))
def test_tdiv_climbs_the_cross_entropy_of_teacher_i_with_a_still_teacher_j(seed):
    choices, actual = perturbed("tdiv", seed)
    i, j = choices.teachers
    torch.testing.assert_close(actual, step(divergence_gradient(TEACHERS[i], TEACHERS[j])))


@pytest.mark.parametrize("seed", range(4))
def test_tdiv_sdiv_climbs_the_teachers_disagreement_and_descends_the_members(seed):
    choices, actual = perturbed("tdiv_sdiv", seed)
    i, j = choices.teachers
    gradient = divergence_gradient(TEACHERS[i], TEACHERS[j]) - divergence_gradient(MEMBERS[i], MEMBERS[j])
    torch.testing.assert_close(actual, step(gradient))


def output_gradient(teacher: Linear, directions: np.ndarray) -> np.ndarray:
    """∇_x of w·softmax(W x/τ): Wᵀ (diag(q) - q qᵀ) w / τ."""
    q = probs(teacher, TEMPERATURE)
    along = q * (directions - (q * directions).sum(axis=1, keepdims=True))
    return along @ weight(teacher) / TEMPERATURE


@pytest.mark.parametrize("seed", range(4))
def test_ods_climbs_a_random_direction_of_one_teachers_tempered_output(seed):
    choices, actual = perturbed("ods", seed)
    directions = choices.uniform(torch.Size([CLASSES]), like=CLEAN).numpy()
    torch.testing.assert_close(actual, step(output_gradient(TEACHERS[choices.teachers[0]], directions)))


@pytest.mark.parametrize("seed", range(4))
def test_conf_ods_is_ods_times_the_largest_tempered_probability(seed):
    choices, actual = perturbed("conf_ods", seed)
    teacher = TEACHERS[choices.teachers[0]]
    directions = choices.uniform(torch.Size([CLASSES]), like=CLEAN).numpy()
    confidence = probs(teacher, TEMPERATURE).max(axis=1, keepdims=True)
    torch.testing.assert_close(actual, step(output_gradient(teacher, directions), confidence))


def test_gaussian_adds_independent_noise_of_strength_grey_levels():
    clean = images(500)
    choices = draw("gaussian", torch.Generator().manual_seed(0), batch_size=500, num_teachers=0)
    noise = (apply("gaussian", clean, choices, strength=STRENGTH) - clean) * 255 / STRENGTH
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    neighbours = (noise[:, :, :, 1:] * noise[:, :, :, :-1]).mean().item()
    assert neighbours == pytest.approx(0, abs=0.03)


def test_no_random_generator_but_the_given_one_is_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for kind in ("gaussian", "ods", "tdiv_sdiv"):
        perturbed(kind, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
