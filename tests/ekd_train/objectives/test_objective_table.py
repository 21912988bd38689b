"""What every objective of the table promises to the training step."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn.functional import kl_div

from ekd_train.objectives import (
    METHOD_OBJECTIVES,
    OBJECTIVES,
    Predictions,
    build_objective,
    label_ce,
    mean_kd,
    member_kd,
    member_kl,
    objective_for,
    proxy_end2_kl,
)
from ekd_train.settings import Distillation, EkdWeights, ObjectiveName, StudentMethod

LABELS = torch.tensor([0, 3, 1])


def predictions(members: int = 2, **absent: None) -> Predictions:
    generator = torch.Generator().manual_seed(0)

    def logits(count: int) -> torch.Tensor:
        return torch.randn(count, 3, 4, generator=generator, dtype=torch.float64)

    everything = {
        "student": logits(members),
        "teachers": logits(2),
        "student_clean": logits(members),
        "student_features": [logits(5)[..., None]] * 2,
        "teacher_features": [logits(5)[..., None]] * 2,
    }
    return Predictions(labels=LABELS, **(everything | absent))


def test_the_table_offers_every_objective_that_settings_allow_and_labels():
    allowed = set(get_args(ObjectiveName)) - {"auto"}
    assert set(OBJECTIVES) == allowed | {"label"}


def test_every_student_method_has_an_objective_of_its_own():
    assert set(METHOD_OBJECTIVES) == set(get_args(StudentMethod))
    assert set(METHOD_OBJECTIVES.values()) <= set(OBJECTIVES)
    assert objective_for("kd", "auto") == "mean_kd"
    assert objective_for("latent_be", "auto") == "member_kd"
    assert objective_for("lora", "auto") == "member_kd"
    assert objective_for("batch_ensemble", "auto") == "ce_kd"
    assert objective_for("ekd", "auto") == "ekd"
    assert objective_for("kd", "proxy_end2") == "proxy_end2"


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_an_objective_reads_only_what_it_says_it_needs(name, alpha):
    objective = build_objective(name, Distillation(alpha=alpha))
    absent: dict[str, None] = {}
    if not objective.needs_teachers:
        absent["teachers"] = None
    if not objective.needs_clean_student:
        absent["student_clean"] = None
    if not objective.needs_features:
        absent |= {"student_features": None, "teacher_features": None}
    terms = objective(predictions(**absent))
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_the_loss_is_differentiable(name):
    student = predictions().student.requires_grad_()
    given = predictions()
    terms = build_objective(name, Distillation(alpha=0.5))(
        Predictions(LABELS, student, given.teachers, student, None, None)
    )
    terms["loss"].backward()
    assert student.grad is not None
    assert not any(term.requires_grad for key, term in terms.items() if key != "loss")


def mean_kl(member, teachers, *, temperature):
    mean = (teachers / temperature).softmax(-1).mean(0)
    return temperature**2 * kl_div((member / temperature).log_softmax(-1), mean, reduction="batchmean")


def test_terms_are_the_pure_functions_and_the_loss_their_mixture():
    given, settings = predictions(), Distillation(alpha=0.7, temperature=2.0)
    label, clean = label_ce(given.student, LABELS), label_ce(given.student_clean, LABELS)
    by_member = {
        "mean_kd": [mean_kl(member, given.teachers, temperature=2.0) for member in given.student],
        "member_kd": [member_kl(given.student, given.teachers, temperature=2.0)],
        "proxy_end2": [proxy_end2_kl(member, given.teachers) for member in given.student],
    }
    for name, losses in by_member.items():
        terms = build_objective(name, settings)(given)
        distillation = torch.stack(losses).mean()
        torch.testing.assert_close(terms["label"], label)
        torch.testing.assert_close(terms["distillation"], distillation)
        torch.testing.assert_close(terms["loss"], 0.3 * label + 0.7 * distillation)

    terms = build_objective("ce_kd", settings)(given)
    distillation = member_kl(given.student, given.teachers, temperature=2.0)
    torch.testing.assert_close(terms["label"], clean)
    torch.testing.assert_close(terms["loss"], 0.3 * clean + 0.7 * distillation)


@pytest.mark.parametrize("name", ["mean_kd", "member_kd", "ce_kd", "ekd"])
def test_the_loss_of_a_student_that_equals_its_one_teacher_is_zero(name):
    teacher = predictions().teachers[:1]
    settings = Distillation(alpha=1.0, temperature=4.0, ekd=EkdWeights(label=0.0))
    terms = build_objective(name, settings)(Predictions(LABELS, teacher, teacher, teacher))
    assert terms["loss"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("name", "loss"), [("mean_kd", mean_kd), ("member_kd", member_kd)])
def test_what_is_subtracted_from_the_published_loss_changes_no_bit_of_its_gradient(name, loss):
    given, student = predictions(), predictions().student.requires_grad_()
    objective = build_objective(name, Distillation(alpha=1.0, temperature=4.0))
    (ours,) = torch.autograd.grad(objective(replace(given, student=student))["loss"], student)
    published = (
        torch.stack([loss(member, given.teachers, temperature=4.0) for member in student]).mean()
        if name == "mean_kd"
        else loss(student, given.teachers, temperature=4.0)
    )
    (theirs,) = torch.autograd.grad(published, student)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["mean_kd", "member_kd", "ce_kd", "proxy_end2"])
def test_a_term_of_weight_zero_is_absent(name):
    assert set(build_objective(name, Distillation(alpha=1.0))(predictions())) == {"loss", "distillation"}
    assert set(build_objective(name, Distillation(alpha=0.0))(predictions())) == {"loss", "label"}


def test_a_plain_student_is_one_member():
    for name in ("label", "mean_kd", "proxy_end2"):
        assert torch.isfinite(build_objective(name, Distillation(alpha=0.5))(predictions(members=1))["loss"])


def test_flags_follow_the_weights():
    assert not build_objective("label", None).needs_teachers
    assert not build_objective("member_kd", Distillation(alpha=0.0)).needs_teachers
    assert build_objective("ce_kd", Distillation(alpha=0.9)).needs_clean_student
    assert not build_objective("ce_kd", Distillation(alpha=1.0)).needs_clean_student
    assert not build_objective("ekd", Distillation()).needs_features
    only_features = build_objective("ekd", Distillation(ekd=EkdWeights(distillation=0, feature=0.1)))
    assert only_features.needs_features
    assert only_features.needs_teachers


def test_ekd_without_a_distillation_term_trains_branches_on_labels_alone():
    objective = build_objective("ekd", Distillation(ekd=EkdWeights(distillation=0)))
    assert not objective.needs_teachers
    assert set(objective(predictions(teachers=None))) == {"loss", "label"}


def test_missing_predictions_and_settings_and_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"reads predictions\.teachers"):
        build_objective("member_kd", Distillation())(predictions(teachers=None))
    with pytest.raises(ValueError, match="needs distillation settings"):
        build_objective("member_kd", None)
    with pytest.raises(ValueError, match="unknown objective 'memberkd'; known: label, mean_kd"):
        build_objective("memberkd", Distillation())


def test_the_losses_of_networks_that_share_nothing_add_up():
    given = predictions()
    terms = build_objective("papa", Distillation())(given)
    torch.testing.assert_close(terms["loss"], sum(label_ce(member, LABELS) for member in given.student))
    torch.testing.assert_close(terms["label"], label_ce(given.student, LABELS))
