"""Every objective at the ends of what its settings allow: finite, and in float32 what it is in float64."""

import pytest
import torch

from ekd_train.objectives import OBJECTIVES, Predictions, build_objective
from ekd_train.settings import Distillation

LABELS = torch.tensor([0, 1, 2])


def confident(seed: int) -> torch.Tensor:
    """Logits `(2, 3, 3)` of plus or minus 80, some of them for the wrong class."""
    signs = torch.randint(2, (2, 3, 3), generator=torch.Generator().manual_seed(seed))
    return 160.0 * signs - 80


def usual(seed: int) -> torch.Tensor:
    """Logits `(2, 3, 3)` of a size that networks have."""
    return 3 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed))


def loss_and_gradient(
    name: str, temperature: float, dtype: torch.dtype, logits=confident, **settings
) -> tuple[torch.Tensor, torch.Tensor]:
    student = logits(0).to(dtype).requires_grad_()
    predictions = Predictions(
        labels=LABELS, student=student, teachers=logits(1).to(dtype), student_clean=student
    )
    objective = build_objective(name, Distillation(temperature=temperature, **settings))
    loss = objective(predictions)["loss"]
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


@pytest.mark.parametrize("logits", [confident, usual])
@pytest.mark.parametrize("temperature", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_neither_loss_nor_gradient_lose_digits_at_high_temperatures(name, temperature, logits):
    loss, gradient = loss_and_gradient(name, temperature, torch.float32, logits)
    exact_loss, exact_gradient = loss_and_gradient(name, temperature, torch.float64, logits)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-3, atol=1e-6)
    size = exact_gradient.norm()
    assert size > 0
    assert (gradient.double() - exact_gradient).norm() <= 1e-3 * size


STANDARDISING = [name for name in OBJECTIVES if name != "proxy_end2"]


@pytest.mark.parametrize("logits", [confident, usual])
@pytest.mark.parametrize("temperature", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", STANDARDISING)
def test_neither_do_standardised_logits_and_weighted_teachers(name, temperature, logits):
    options = {"standardise": True, "teacher_weights": "confidence"}
    loss, gradient = loss_and_gradient(name, temperature, torch.float32, logits, **options)
    exact_loss, exact_gradient = loss_and_gradient(name, temperature, torch.float64, logits, **options)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=2e-3, atol=1e-6)
    assert (gradient.double() - exact_gradient).norm() <= 1e-3 * exact_gradient.norm()


@pytest.mark.parametrize("options", [{}, {"standardise": True, "teacher_weights": "confidence"}])
@pytest.mark.parametrize("name", STANDARDISING)
def test_at_the_lowest_temperature_losses_keep_their_digits_and_gradients_are_finite(name, options):
    loss, gradient = loss_and_gradient(name, 1e-3, torch.float32, **options)
    exact_loss, exact_gradient = loss_and_gradient(name, 1e-3, torch.float64, **options)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-4, atol=1e-3)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(exact_gradient).all()


def test_at_the_highest_temperature_tempered_kl_is_half_the_variance_of_the_difference():
    """Its limit (Hinton et al. 2015, section 2.1), which no softmax is needed for."""
    student, teachers = usual(0)[:1], usual(1)[:1]
    objective = build_objective("mean_kd", Distillation(temperature=1000.0))
    loss = objective(Predictions(labels=LABELS, student=student, teachers=teachers))["loss"]
    limit = (student - teachers).double().var(dim=-1, correction=0).mean() / 2
    torch.testing.assert_close(loss.double(), limit, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("temperature", [9e-4, 1001, 1e6, 1e30])
def test_a_temperature_where_nothing_is_gained_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Distillation(temperature=temperature)
