"""What is matched, how much a teacher counts, DKD and DIST: against their definitions, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from ekd_train.objectives import (
    OBJECTIVES,
    Predictions,
    build_objective,
    confidence_weights,
    dist,
    dkd,
    mean_kd,
    member_kd,
    standardised,
)
from ekd_train.settings import Distillation, DkdWeights, EkdWeights

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.tensor([0, 3, 1, 1, 2])
STUDENT, TEACHERS = (3 * torch.randn(3, 5, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
MATCHING = ["mean_kd", "member_kd", "ce_kd", "ekd", "dkd", "dist"]


def loss(name: str, student: Tensor = STUDENT, teachers: Tensor = TEACHERS, rows=slice(None), **settings):
    """The distillation term alone, at temperature 2."""
    chosen = Distillation(temperature=2.0, ekd=EkdWeights(label=0.0), **settings)
    given = Predictions(LABELS[rows], student[:, rows], teachers[:, rows])
    return build_objective(name, chosen)(given)["loss"]


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Of each image, by torch's own, at temperature 2."""
    log_probs = [(logits / 2).log_softmax(-1) for logits in (teacher, student)]
    return kl_div(log_probs[1], log_probs[0], reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("name", MATCHING)
def test_standardised_losses_do_not_see_how_logits_are_scaled_and_shifted(name):
    scale = 0.5 + torch.rand(3, 5, 1, generator=GENERATOR, dtype=torch.float64)
    shift = torch.randn(3, 5, 1, generator=GENERATOR, dtype=torch.float64)
    changed = loss(name, teachers=scale * TEACHERS + shift, standardise=True)
    torch.testing.assert_close(changed, loss(name, standardise=True), rtol=1e-5, atol=0)
    if name != "ekd":  # whose fused prediction is the mean of its branches' logits
        changed = loss(name, student=scale * STUDENT + shift, standardise=True)
        torch.testing.assert_close(changed, loss(name, standardise=True), rtol=1e-5, atol=0)
    assert not torch.isclose(loss(name), loss(name, standardise=True))


def test_a_standardised_logit_is_its_z_score_over_the_classes():
    z = torch.tensor([2.0, 4.0, 9.0], dtype=torch.float64)
    expected = (z - 5) / (1e-7 + (26 / 2) ** 0.5)  # deviations -3, -1, 4
    torch.testing.assert_close(standardised(z), expected)


def test_equal_logits_have_no_deviation_and_give_numbers_and_gradients():
    student = torch.zeros(1, 5, 4, requires_grad=True)
    loss("mean_kd", student, torch.zeros(2, 5, 4), standardise=True).backward()
    assert torch.isfinite(student.grad).all()


def test_teachers_that_are_alike_count_alike():
    same = TEACHERS[:1].expand(3, -1, -1)
    torch.testing.assert_close(confidence_weights(same, LABELS), torch.full((3, 5), 1 / 3).double())
    assert confidence_weights(TEACHERS[:1], LABELS).eq(1).all()


def test_a_teacher_counts_what_its_cross_entropy_leaves_it():
    costs = torch.stack([cross_entropy(t, LABELS, reduction="none") for t in TEACHERS]).exp()
    expected = (1 - costs / costs.sum(0)) / 2
    torch.testing.assert_close(confidence_weights(TEACHERS, LABELS), expected)
    torch.testing.assert_close(expected.sum(0), torch.ones(5).double())
    certain = torch.eye(4, dtype=torch.float64)[LABELS]  # as labels are where others are smoothed or mixed
    torch.testing.assert_close(confidence_weights(TEACHERS, certain), expected)


def test_weights_multiply_what_each_teacher_teaches():
    weights = confidence_weights(TEACHERS, LABELS)
    by_member = torch.stack([kl(t, s) for t, s in zip(TEACHERS, STUDENT, strict=True)])
    expected = 4 * (weights * by_member).sum(0).mean()
    torch.testing.assert_close(loss("member_kd", teacher_weights="confidence"), expected)
    target = (weights[..., None] * (TEACHERS / 2).softmax(-1)).sum(0)
    expected = torch.stack([kl(2 * target.log(), s) for s in STUDENT]).mean() * 4
    torch.testing.assert_close(loss("mean_kd", teacher_weights="confidence"), expected)


@pytest.mark.parametrize("name", MATCHING)
def test_teachers_that_are_alike_are_weighted_as_without_weights(name):
    same = TEACHERS[:1].expand(3, -1, -1)
    weighted = loss(name, teachers=same, teacher_weights="confidence")
    torch.testing.assert_close(weighted, loss(name, teachers=same))


@pytest.mark.parametrize("public", [mean_kd, member_kd])
def test_equal_weights_are_no_weights(public):
    student = STUDENT[0] if public is mean_kd else STUDENT
    equal = torch.full((3, 5), 1 / 3, dtype=torch.float64)
    weighted = public(student, TEACHERS, temperature=2.0, weights=equal)
    torch.testing.assert_close(weighted, public(student, TEACHERS, temperature=2.0))


def test_plain_distillation_is_dkd_whose_second_part_counts_what_the_teacher_leaves_to_other_classes():
    for member in range(3):
        for image in range(5):
            student, teacher = STUDENT[member : member + 1, [image]], TEACHERS[member : member + 1, [image]]
            left = 1 - (teacher / 2).softmax(-1)[0, 0, LABELS[image]].item()
            found = dkd(student, teacher, LABELS[[image]], temperature=2.0, target=1.0, non_target=left)
            torch.testing.assert_close(found, 4 * kl(teacher[0], student[0]).mean())


def test_dkd_is_its_authors_with_a_logit_of_minus_1000_in_the_place_of_the_label():
    index = LABELS[None, :, None].expand(3, 5, 1)
    label = torch.zeros(3, 5, 4, dtype=torch.float64).scatter(-1, index, 1.0)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        p = (logits / 2).softmax(-1)
        binary = torch.stack([(p * label).sum(-1), (p * (1 - label)).sum(-1)], dim=-1)
        return binary, (logits / 2 - 1000 * label).log_softmax(-1)

    (binary_t, others_t), (binary_s, others_s) = parts(TEACHERS), parts(STUDENT)
    target = (binary_t * (binary_t / binary_s).log()).sum(-1)
    non_target = kl_div(others_s, others_t, reduction="none", log_target=True).sum(-1)
    expected = 4 * (0.5 * target + 6 * non_target).mean()
    found = loss("dkd", dkd=DkdWeights(target=0.5, non_target=6.0))
    torch.testing.assert_close(found, expected)


def test_dist_is_one_minus_pearsons_correlation_of_the_probabilities():
    rows = zip((STUDENT / 2).softmax(-1).view(-1, 4), (TEACHERS / 2).softmax(-1).view(-1, 4), strict=True)
    correlations = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in rows])
    torch.testing.assert_close(loss("dist"), 4 * (1 - correlations).mean(), rtol=1e-5, atol=0)


def test_dist_does_not_see_a_student_that_is_a_line_of_its_teacher():
    probs = TEACHERS.softmax(-1)
    flatter = (0.3 * probs + 0.7 / 4).log()
    assert dist(flatter, TEACHERS, temperature=1.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", [dist, lambda s, t, **k: dkd(s, t, LABELS, **k)])
def test_one_member_learns_the_mean_of_its_teachers_and_several_their_own(objective):
    mean = (TEACHERS / 2).softmax(-1).mean(0, keepdim=True).log() * 2
    expected = objective(STUDENT[:1], mean, temperature=2.0)
    torch.testing.assert_close(objective(STUDENT[:1], TEACHERS, temperature=2.0), expected)
    own = [objective(STUDENT[m : m + 1], TEACHERS[m : m + 1], temperature=2.0) for m in range(3)]
    torch.testing.assert_close(objective(STUDENT, TEACHERS, temperature=2.0), torch.stack(own).mean())
    with pytest.raises(ValueError, match="as many members"):
        objective(STUDENT[:2], TEACHERS, temperature=2.0)


@pytest.mark.parametrize("name", ["mean_kd", "member_kd", "ce_kd", "dkd", "dist", "ekd"])
def test_where_labels_are_mixed_teachers_count_by_the_mixed_label(name):
    """Of two teachers one is sure of the first image of a mixture, one of the second: at a half each, they
    count alike, though the label says which image shows more."""
    sure = torch.zeros(2, 1, 4, dtype=torch.float64)
    sure[0, 0, 0] = sure[1, 0, 3] = 5
    mixed = torch.tensor([[0.5, 0.0, 0.0, 0.5]], dtype=torch.float64)
    given = Predictions(LABELS[:1], STUDENT[:2, :1], sure, student_clean=STUDENT[:2, :1], label_probs=mixed)
    found = {
        weights: build_objective(name, Distillation(temperature=2.0, teacher_weights=weights))(given)
        for weights in ("equal", "confidence")
    }
    torch.testing.assert_close(found["confidence"]["distillation"], found["equal"]["distillation"])


@pytest.mark.parametrize("weights", ["equal", "confidence"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "proxy_end2"])
def test_the_loss_of_a_batch_is_its_shares_by_their_images(name, weights):
    whole = loss(name, teacher_weights=weights, standardise=True)
    shares = [
        loss(name, rows=rows, teacher_weights=weights, standardise=True) for rows in ([0, 1], [2, 3, 4])
    ]
    torch.testing.assert_close(whole, (2 * shares[0] + 3 * shares[1]) / 5)


@pytest.mark.parametrize("setting", [{"standardise": True}, {"teacher_weights": "confidence"}])
def test_proxy_end2_refuses_what_it_would_not_read(setting):
    with pytest.raises(ValueError, match="proxy_end2 has a target of its own"):
        Distillation(objective="proxy_end2", **setting)


def test_the_mean_of_ekds_losses_is_their_sum_divided_by_their_number():
    given = Predictions(LABELS, STUDENT, TEACHERS)
    by_reduction = {
        reduction: build_objective("ekd", Distillation(ekd=EkdWeights(reduction=reduction)))(given)
        for reduction in ("sum", "mean")
    }
    for term, summed in by_reduction["sum"].items():
        torch.testing.assert_close(by_reduction["mean"][term], summed / 4)


@pytest.mark.parametrize("objective", ["dkd", "standardised"])
def test_one_class_leaves_nothing_to_compare(objective):
    one = torch.zeros(1, 5, 1)
    with pytest.raises(ValueError, match="at least two classes"):
        dkd(one, one, 0 * LABELS, temperature=1.0) if objective == "dkd" else standardised(one)
