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


def loss_and_gradient(
    name: str, temperature: float, dtype: torch.dtype, **settings
) -> tuple[torch.Tensor, torch.Tensor]:
    student = confident(0).to(dtype).requires_grad_()
    predictions = Predictions(
        labels=LABELS, student=student, teachers=confident(1).to(dtype), student_clean=student
    )
    objective = build_objective(name, Distillation(temperature=temperature, **settings))
    loss = objective(predictions)["loss"]
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_logits_of_80_and_temperatures_at_their_bounds_lose_no_digits(name, temperature):
    loss, gradient = loss_and_gradient(name, temperature, torch.float32)
    exact_loss, exact_gradient = loss_and_gradient(name, temperature, torch.float64)
    assert torch.isfinite(exact_loss)
    assert torch.isfinite(exact_gradient).all()
    # τ² multiplies rounding too: at 1e6 a difference of 1e-7 in float32 is 1e5.
    tolerance = 1e-3 if temperature <= 1 else 1e-6 * temperature**2
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-4, atol=tolerance)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e6])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "proxy_end2"])
def test_neither_do_standardised_logits_and_weighted_teachers(name, temperature):
    options = {"standardise": True, "teacher_weights": "confidence"}
    loss, gradient = loss_and_gradient(name, temperature, torch.float32, **options)
    exact_loss, _ = loss_and_gradient(name, temperature, torch.float64, **options)
    tolerance = 1e-3 if temperature <= 1 else 1e-6 * temperature**2
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-4, atol=tolerance)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [9e-4, 1.1e6, 1e30])
def test_a_temperature_where_nothing_is_gained_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Distillation(temperature=temperature)
