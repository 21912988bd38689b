"""Proxy-EnD² against torch.distributions' own Dirichlet."""

import mpmath
import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from ekd_train.objectives import proxy_end2, proxy_end2_kl


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def proxy_precision(teachers: torch.Tensor) -> torch.Tensor:
    """β₀ as algorithms write it, (K - 1) / (2 Σ p̄ (log p̄ - mean log p))."""
    probs = torch.softmax(teachers, dim=-1)
    mean = probs.mean(dim=0)
    spread = (mean * (mean.log() - probs.log().mean(dim=0))).sum(dim=-1)
    return (teachers.shape[-1] - 1) / (2 * spread)


def test_it_is_the_reverse_kl_to_the_proxy_over_its_precision_up_to_a_constant():
    teachers = logits(4, 5, 6)
    precision = proxy_precision(teachers)
    target = Dirichlet(precision[:, None] * torch.softmax(teachers, dim=-1).mean(dim=0) + 1)

    def scaled_reverse_kl(student: torch.Tensor) -> torch.Tensor:
        return (kl_divergence(Dirichlet(student.exp() + 1), target) / precision).mean()

    first, second = logits(5, 6, seed=1), logits(5, 6, seed=2)
    difference = proxy_end2(first, teachers) - proxy_end2(second, teachers)
    torch.testing.assert_close(difference, scaled_reverse_kl(first) - scaled_reverse_kl(second))


def test_the_proxy_itself_is_its_minimum():
    teachers = logits(4, 5, 6)
    mean = torch.softmax(teachers, dim=-1).mean(dim=0)
    student = (proxy_precision(teachers)[:, None] * mean).log().requires_grad_()
    (gradient,) = torch.autograd.grad(proxy_end2(student, teachers), student)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("teachers", [logits(1, 5, 6), logits(1, 5, 6).expand(3, 5, 6)])
def test_teachers_that_agree_give_a_finite_loss_and_gradient(teachers):
    student = logits(5, 6, seed=1).requires_grad_()
    loss = proxy_end2(student, teachers)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_confident_float32_logits_are_handled_in_float64():
    teachers = torch.tensor([[[120.0, 0.0, -120.0]], [[-120.0, 0.0, 120.0]]])
    student = torch.tensor([[60.0, 0.0, -60.0]], requires_grad=True)
    loss = proxy_end2(student, teachers)
    loss.backward()
    assert loss.dtype == torch.float64
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_the_order_of_teachers_does_not_matter_and_they_receive_no_gradient():
    teachers, student = logits(4, 5, 6).requires_grad_(), logits(5, 6, seed=1).requires_grad_()
    loss = proxy_end2(student, teachers)
    torch.testing.assert_close(loss, proxy_end2(student, teachers.flip(0)))
    loss.backward()
    assert teachers.grad is None


def test_one_class_is_no_distribution():
    with pytest.raises(ValueError, match="two classes"):
        proxy_end2(torch.zeros(5, 1), torch.zeros(2, 5, 1))


def exact(student: list[float], teachers: torch.Tensor) -> tuple[float, list[float]]:
    """The loss of one image and its gradient, in 60 digits: the docstring's equation, differentiated by hand.

    `∂/∂z_c = a_c [ψ'(α₀) - p̄_c ψ'(α_c) + (a_c ψ'(α_c) - A ψ'(α₀)) / β₀]`, where `a = exp(z)`, `A = Σ a`.
    """
    with mpmath.workdps(60):
        probs = torch.softmax(teachers, dim=-1).tolist()
        count, classes = len(probs), len(student)
        mean = [mpmath.fsum(mpmath.mpf(p[0][c]) for p in probs) / count for c in range(classes)]
        log_probs = torch.log_softmax(teachers, dim=-1)[:, 0].tolist()
        spread = mpmath.fsum(
            mean[c] * (mpmath.log(mean[c]) - mpmath.fsum(map(mpmath.mpf, [p[c] for p in log_probs])) / count)
            for c in range(classes)
        )
        inverse = 2 * spread / (classes - 1)
        a = [mpmath.exp(mpmath.mpf(z)) for z in student]
        alpha, total = [one + 1 for one in a], mpmath.fsum(a) + classes
        expected = mpmath.fsum(
            mean[c] * (mpmath.digamma(total) - mpmath.digamma(alpha[c])) for c in range(classes)
        )
        kl = (
            mpmath.loggamma(total)
            - mpmath.fsum(mpmath.loggamma(one) for one in alpha)
            - mpmath.loggamma(classes)
            + mpmath.fsum(a[c] * (mpmath.digamma(alpha[c]) - mpmath.digamma(total)) for c in range(classes))
        )
        slope = mpmath.psi(1, total)
        gradient = [
            a[c]
            * (
                slope
                - mean[c] * mpmath.psi(1, alpha[c])
                + inverse * (a[c] * mpmath.psi(1, alpha[c]) - mpmath.fsum(a) * slope)
            )
            for c in range(classes)
        ]
        return float(expected + inverse * kl), [float(one) for one in gradient]


@pytest.mark.parametrize("largest", [-80.0, -3.0, 0.5, 2.2, 2.4, 8.0, 20.0, 36.0, 80.0])
def test_the_loss_and_its_gradient_have_twelve_digits_however_confident_the_student(largest):
    teachers = 2 * logits(3, 1, 4)
    values = [largest, 0.5, -1.0, largest - 1]
    student = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    loss = proxy_end2(student, teachers)
    (gradient,) = torch.autograd.grad(loss, student)
    expected, slope = exact(values, teachers)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient[0], torch.tensor(slope, dtype=torch.float64), rtol=1e-11, atol=1e-13)


def test_logits_beyond_what_an_exponential_holds_are_finite():
    student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = proxy_end2(student, logits(2, 1, 3))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_what_is_shown_is_nothing_for_a_sure_student_of_teachers_that_agree_and_has_the_same_gradient():
    teachers = logits(1, 5, 6).expand(3, 5, 6)
    sure = (teachers[0] + 30).requires_grad_()  # softmax(z) is what they say, and α is large
    shown = proxy_end2_kl(sure, teachers)
    assert 0 <= float(shown.detach()) < 1e-9
    student = logits(5, 6, seed=1).requires_grad_()
    gradients = [
        torch.autograd.grad(loss(student, logits(4, 5, 6)), student)[0]
        for loss in (proxy_end2, proxy_end2_kl)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
