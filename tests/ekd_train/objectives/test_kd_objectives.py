"""Label, mean-of-teachers, member-to-teacher and ODS-paper losses against numpy and each other."""

import numpy as np
import pytest
import torch

from ekd_train.objectives import Predictions, build_objective, label_ce, mean_kd, member_kd, member_kl
from ekd_train.settings import Distillation


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


LABELS = torch.tensor([0, 2, 4, 1, 1])


def test_label_ce_is_the_mean_over_members_of_their_cross_entropies():
    student = logits(3, 5, 6)
    by_member = [torch.nn.functional.cross_entropy(member, LABELS) for member in student]
    torch.testing.assert_close(label_ce(student, LABELS), torch.stack(by_member).mean())
    torch.testing.assert_close(label_ce(student[0], LABELS), by_member[0])


def test_member_kd_pairs_member_m_with_teacher_m_as_in_the_formula():
    student, teachers, temperature = logits(3, 5, 6), logits(3, 5, 6, seed=1), 4.0
    total = 0.0
    for m in range(3):
        for b in range(5):
            target = softmax(teachers[m, b].numpy() / temperature)
            total -= (target * np.log(softmax(student[m, b].numpy() / temperature))).sum()
    expected = temperature**2 * total / (3 * 5)
    assert member_kd(student, teachers, temperature=temperature).item() == pytest.approx(expected, rel=1e-12)


def test_mean_kd_is_the_mean_over_teachers_of_their_cross_entropies():
    student, teachers, temperature = logits(5, 6), logits(4, 5, 6, seed=1), 3.0
    one_by_one = [mean_kd(student, teacher[None], temperature=temperature) for teacher in teachers]
    torch.testing.assert_close(
        mean_kd(student, teachers, temperature=temperature), torch.stack(one_by_one).mean()
    )


def test_mean_kd_with_one_teacher_is_hintons_distillation():
    student, teacher, temperature = logits(5, 6), logits(5, 6, seed=1), 2.0
    target = torch.softmax(teacher / temperature, dim=-1)
    expected = temperature**2 * torch.nn.functional.cross_entropy(student / temperature, target)
    torch.testing.assert_close(mean_kd(student, teacher[None], temperature=temperature), expected)


def test_the_order_of_teachers_does_not_matter_to_mean_kd():
    student, teachers = logits(5, 6), logits(4, 5, 6, seed=1)
    torch.testing.assert_close(
        mean_kd(student, teachers, temperature=4.0), mean_kd(student, teachers.flip(0), temperature=4.0)
    )


def test_mean_kd_averages_probabilities_not_logits():
    student, teachers = logits(5, 6), logits(4, 5, 6, seed=1)
    of_mean_logits = mean_kd(student, teachers.mean(dim=0, keepdim=True), temperature=4.0)
    assert abs(mean_kd(student, teachers, temperature=4.0) - of_mean_logits) > 0.1


def test_identical_members_and_teachers_make_member_kd_plain_kd():
    student, teacher = logits(5, 6), logits(5, 6, seed=1)
    torch.testing.assert_close(
        member_kd(student.expand(3, 5, 6), teacher.expand(3, 5, 6), temperature=4.0),
        mean_kd(student, teacher[None], temperature=4.0),
    )


def test_member_kl_is_member_kd_less_the_teachers_entropy():
    student, teachers, temperature = logits(3, 5, 6), logits(3, 5, 6, seed=1), 4.0
    entropy = torch.distributions.Categorical(logits=teachers / temperature).entropy().mean()
    torch.testing.assert_close(
        member_kl(student, teachers, temperature=temperature),
        member_kd(student, teachers, temperature=temperature) - temperature**2 * entropy,
    )
    assert member_kl(teachers, teachers, temperature=temperature).item() == pytest.approx(0, abs=1e-12)


def test_ce_kd_judges_clean_images_by_labels_and_perturbed_ones_by_teachers():
    clean, perturbed, teachers = logits(3, 5, 6), logits(3, 5, 6, seed=1), logits(3, 5, 6, seed=2)
    student = torch.distributions.Categorical(logits=perturbed / 2)
    teacher = torch.distributions.Categorical(logits=teachers / 2)
    expected = (
        0.1 * label_ce(clean, LABELS) + 0.9 * 4 * torch.distributions.kl_divergence(teacher, student).mean()
    )
    objective = build_objective("ce_kd", Distillation(alpha=0.9, temperature=2.0))
    terms = objective(Predictions(LABELS, perturbed, teachers, clean))
    torch.testing.assert_close(terms["loss"], expected)


@pytest.mark.parametrize(("loss", "student_shape"), [(mean_kd, (5, 6)), (member_kd, (3, 5, 6))])
def test_the_gradient_is_tau_times_the_difference_of_tempered_probabilities(loss, student_shape):
    student, teachers, temperature = logits(*student_shape).requires_grad_(), logits(3, 5, 6, seed=1), 4.0
    (gradient,) = torch.autograd.grad(loss(student, teachers, temperature=temperature), student)
    target = torch.softmax(teachers / temperature, dim=-1)
    target = target if student.ndim == 3 else target.mean(dim=0)
    count = student.shape[:-1].numel()
    expected = temperature * (torch.softmax(student / temperature, dim=-1) - target) / count
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loss", [mean_kd, member_kd, member_kl])
def test_teachers_receive_no_gradient(loss):
    student, teachers = logits(3, 5, 6).requires_grad_(), logits(3, 5, 6, seed=1).requires_grad_()
    loss(student[0] if loss is mean_kd else student, teachers, temperature=4.0).backward()
    assert teachers.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("loss", [mean_kd, member_kd, member_kl])
def test_uneven_shares_weighted_by_their_size_add_up_to_the_global_batch(loss):
    student, teachers = logits(3, 5, 6), logits(3, 5, 6, seed=1)
    student = student[0] if loss is mean_kd else student

    def share(start: int, stop: int) -> torch.Tensor:
        own = loss(student[..., start:stop, :], teachers[:, start:stop], temperature=4.0)
        return own * (stop - start) / 5

    torch.testing.assert_close(share(0, 1) + share(1, 5), loss(student, teachers, temperature=4.0))


def test_bfloat16_logits_are_compared_in_float32():
    student, teachers = logits(5, 6).bfloat16(), logits(4, 5, 6, seed=1).bfloat16()
    loss = mean_kd(student, teachers, temperature=4.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, mean_kd(student.float(), teachers.float(), temperature=4.0))


@pytest.mark.parametrize(
    ("loss", "student_shape", "teacher_shape", "message"),
    [
        (mean_kd, (2, 5, 6), (2, 5, 6), r"must be \(b, c\)"),
        (mean_kd, (5, 6), (5, 6), r"must be \(k, b, c\)"),
        (mean_kd, (5, 6), (0, 5, 6), "k >= 1"),
        (mean_kd, (5, 6), (2, 1, 6), "differ in batch or classes"),
        (member_kd, (5, 6), (2, 5, 6), r"must be \(s, b, c\)"),
        (member_kd, (2, 5, 6), (2, 5, 7), "differ in batch or classes"),
        (member_kd, (1, 5, 6), (4, 5, 6), "set student.members to the number of teachers"),
    ],
)
def test_shapes_that_would_broadcast_or_fail_are_refused(loss, student_shape, teacher_shape, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(student_shape), torch.zeros(teacher_shape), temperature=4.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        mean_kd(torch.zeros(5, 6), torch.zeros(2, 5, 6), temperature=temperature)


@pytest.mark.parametrize(
    ("student", "labels"), [((6,), (6,)), ((5, 6), (4,)), ((2, 5, 6), (2, 5)), ((5, 6), (5, 1))]
)
def test_labels_that_do_not_fit_are_refused(student, labels):
    with pytest.raises(ValueError, match=r"labels|student logits"):
        label_ce(torch.zeros(student), torch.zeros(labels, dtype=torch.long))
