"""EKD's loss, term by term, and the projections of its feature term."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from ekd_train.objectives import FeatureProjections, ekd, feature_mse
from ekd_train.settings import EkdWeights

LABELS = torch.tensor([0, 3, 1])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_the_weighted_sum_of_branch_and_fused_terms():
    student, teachers, temperature = logits(0), logits(1), 3.0
    fused = student.mean(dim=0)
    label = F.cross_entropy(fused, LABELS) + sum(F.cross_entropy(branch, LABELS) for branch in student)
    ensemble = Categorical(probs=torch.softmax(teachers / temperature, dim=-1).mean(dim=0))
    distillation = kl_divergence(ensemble, Categorical(logits=fused / temperature)).mean()
    for teacher, branch in zip(teachers, student, strict=True):
        distillation += kl_divergence(
            Categorical(logits=teacher / temperature), Categorical(logits=branch / temperature)
        ).mean()
    distillation *= temperature**2
    maps = [torch.randn(3, 5, 2, 2).double() for _ in range(4)]
    feature = F.mse_loss(maps[0], maps[2]) + F.mse_loss(maps[1], maps[3])

    terms = ekd(
        student,
        teachers,
        LABELS,
        temperature=temperature,
        weights=EkdWeights(label=0.5, distillation=2.0, feature=0.1),
        student_features=maps[:2],
        teacher_features=maps[2:],
    )

    torch.testing.assert_close(terms["label"], label)
    torch.testing.assert_close(terms["distillation"], distillation)
    torch.testing.assert_close(terms["feature"].double(), feature, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["loss"].double(), 0.5 * label + 2 * distillation + 0.1 * feature)


def test_a_term_of_weight_zero_is_absent_and_needs_no_input():
    terms = ekd(logits(0), logits(1), LABELS, temperature=1.0, weights=EkdWeights(label=0.0))
    assert set(terms) == {"loss", "distillation"}


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="label and distillation cannot both be 0"):
        EkdWeights(label=0, distillation=0, feature=0)


def test_a_weighted_feature_term_without_features_names_what_is_missing():
    with pytest.raises(ValueError, match="student_features"):
        ekd(logits(0), logits(1), LABELS, temperature=1.0, weights=EkdWeights(feature=1.0))


def test_projections_give_each_pair_the_teachers_channels_and_the_smaller_size():
    projections = FeatureProjections([4, 4], [6, 3])
    students, teachers = projections(
        [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)],
        [torch.randn(2, 6, 4, 4), torch.randn(2, 3, 16, 16)],
    )
    assert [tuple(one.shape) for one in students] == [(2, 6, 4, 4), (2, 3, 8, 8)]
    assert [one.shape for one in teachers] == [one.shape for one in students]


def test_maps_of_equal_size_are_not_pooled():
    projections = FeatureProjections([4], [6])
    student, teacher = torch.randn(2, 4, 5, 7), torch.randn(2, 6, 5, 7)
    projected, target = projections([student], [teacher])
    torch.testing.assert_close(projected[0], projections.projections[0](student))
    torch.testing.assert_close(target[0], teacher)


def test_the_feature_term_trains_branch_and_projection_but_not_the_teacher():
    projections = FeatureProjections([4], [6])
    student, teacher = (
        torch.randn(2, 4, 2, 2, requires_grad=True),
        torch.randn(2, 6, 2, 2, requires_grad=True),
    )
    feature_mse(*projections([student], [teacher])).backward()
    assert student.grad is not None
    assert all(parameter.grad is not None for parameter in projections.parameters())
    assert teacher.grad is None


def test_features_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="FeatureProjections"):
        feature_mse([torch.zeros(2, 4, 2, 2)], [torch.zeros(2, 6, 2, 2)])
    with pytest.raises(ValueError, match="1 branch features for 0 teachers"):
        feature_mse([torch.zeros(2, 4, 2, 2)], [])
    with pytest.raises(ValueError, match="1 branches for 2 teachers"):
        FeatureProjections([4], [6, 6])
