"""Predictors measured on corrupted and foreign images: small networks, whole path."""

import pytest
import torch
from pydantic import ValidationError

from ekd_train.evaluation.evaluate import predict
from ekd_train.metrics import accuracy, ece, nll
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.models.teachers import Teachers
from ekd_train.robustness.corruptions import corrupt
from ekd_train.robustness.evaluate import (
    corruption_errors,
    mean_corruption_error,
    out_of_distribution,
    predict_all,
    selective,
    under_corruption,
)
from ekd_train.robustness.settings import RobustnessSettings

SETTINGS = RobustnessSettings(corruptions=("contrast", "shot_noise"), severities=(1, 4), seed=7)


def a_network(seed):
    torch.manual_seed(seed)
    return build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1)


@pytest.fixture(scope="module")
def predictors():
    teachers = [a_network(1), a_network(2)]
    return {
        "control": a_network(0),
        "teacher/0": teachers[0],
        "teacher/1": teachers[1],
        "ensemble": Teachers(teachers),
        "members": to_batch_ensemble(a_network(3), 2, "normal"),
        "averaged": a_network(4),
    }


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)


LABELS = torch.arange(40) % 3


@pytest.fixture(scope="module")
def measured(predictors, images):
    temperatures = dict.fromkeys(predictors, 2.0)
    return under_corruption(predictors, images, LABELS, temperatures, SETTINGS)


def test_teachers_are_the_rows_of_the_ensemble(predictors, images):
    probs = predict_all(predictors, images)
    assert list(probs) == list(predictors)
    for name, predictor in predictors.items():
        assert torch.allclose(probs[name], predict(predictor, images), atol=1e-6), name


def test_metrics_under_corruption_are_those_of_the_corrupted_images(measured, predictors, images):
    corrupted = corrupt(images, "shot_noise", 4, seed=7)
    for name, predictor in predictors.items():
        probs = predict(predictor, corrupted).mean(0)
        found = measured[name]["kinds"]["shot_noise"]["4"]
        for metric in (accuracy, nll, ece):
            assert found[metric.__name__] == pytest.approx(metric(probs, LABELS), abs=1e-6), (name, metric)
        assert {"cnll", "cece"} <= set(found)


def test_means_are_over_kinds_and_then_over_severities(measured):
    kinds = measured["averaged"]["kinds"]
    one = [kinds[kind]["1"]["nll"] for kind in ("contrast", "shot_noise")]
    assert measured["averaged"]["severities"]["1"]["nll"] == pytest.approx(sum(one) / 2)
    every = [kinds[kind][s]["accuracy"] for kind in kinds for s in ("1", "4")]
    assert measured["averaged"]["mean"]["accuracy"] == pytest.approx(sum(every) / 4)


def test_the_baseline_has_a_mean_corruption_error_of_one(measured):
    assert measured["control"]["mce"] == pytest.approx(1)
    assert measured["control"]["ce"] == pytest.approx({"contrast": 1, "shot_noise": 1})


def test_an_interval_under_corruption_resamples_images_with_all_their_corruptions(
    measured, predictors, images
):
    """The oracle draws images and measures each draw under every corruption."""
    correct = {
        name: torch.stack(
            [
                (predict(predictors[name], corrupt(images, kind, s, seed=7)).mean(0).argmax(-1) == LABELS)
                for kind in ("contrast", "shot_noise")
                for s in (1, 4)
            ]
        ).double()
        for name in ("control", "averaged")
    }
    drawn = torch.randint(40, (2000, 40), generator=torch.Generator().manual_seed(0))
    gains = torch.stack([(correct["averaged"][:, d] - correct["control"][:, d]).mean() for d in drawn])
    low, high = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=gains.dtype)).tolist()
    found = measured["averaged"]["minus_control"]["accuracy"]
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    expected = measured["averaged"]["mean"]["accuracy"] - measured["control"]["mean"]["accuracy"]
    assert found["value"] == pytest.approx(expected)
    assert "minus_control" not in measured["control"]


def test_progress_ends_at_all_images(predictors, images):
    told = []
    under_corruption(
        {"control": predictors["control"]},
        images,
        LABELS,
        {"control": 1.0},
        SETTINGS,
        lambda done, total: told.append((done, total)),
    )
    assert told == [(40, 160), (80, 160), (120, 160), (160, 160)]


def test_corruption_errors_are_sums_over_severities_relative_to_the_baseline():
    errors = {"fog": [0.1, 0.3], "snow": [0.2, 0.2]}
    baseline = {"fog": [0.2, 0.2], "snow": [0.4, 0.4]}
    assert corruption_errors(errors, baseline) == pytest.approx({"fog": 1.0, "snow": 0.5})
    assert mean_corruption_error(errors, baseline) == pytest.approx(0.75)


def test_without_an_error_of_the_baseline_there_is_no_mean_corruption_error():
    errors, baseline = {"fog": [0.1], "snow": [0.2]}, {"fog": [0.0], "snow": [0.4]}
    assert corruption_errors(errors, baseline) == {"snow": 0.5}
    assert mean_corruption_error(errors, baseline) is None


def test_disagreement_is_scored_where_there_are_members(predictors, images):
    inside, outside = predict_all(predictors, images), predict_all(predictors, 255 - images)
    found = out_of_distribution(inside, outside)
    assert set(found["members"]) == set(found["ensemble"]) == {"max_probability", "entropy", "disagreement"}
    assert set(found["averaged"]) == {"max_probability", "entropy"}
    entropy = found["averaged"]["entropy"]
    low, high = entropy["intervals"]["auroc"]
    assert low <= entropy["auroc"] <= high
    expected = entropy["auroc"] - found["control"]["entropy"]["auroc"]
    assert entropy["minus_control"]["auroc"]["value"] == pytest.approx(expected)
    assert set(entropy["minus_control"]) == set(entropy["intervals"]) == {"auroc", "fpr_at_95"}
    assert "minus_control" not in found["control"]["entropy"]
    assert "minus_control" not in found["members"]["disagreement"]


def test_a_stored_curve_is_short_and_ends_at_full_coverage():
    probs = torch.rand(1, 1234, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    labels = torch.arange(1234) % 3
    found = selective({"averaged": probs}, labels)["averaged"]
    assert len(found["coverage"]) == len(found["risk"]) == 100
    assert found["coverage"][-1] == 1
    assert found["risk"][-1] == pytest.approx(1 - accuracy(probs[0], labels))
    assert len(selective({"averaged": probs[:, :7]}, labels[:7])["averaged"]["risk"]) == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"severities": [0]},
        {"severities": []},
        {"severities": [1, 1]},
        {"corruptions": ["frost"]},
        {"corruptions": []},
        {"outside": "imagenet"},
        {"images": 0},
        {"speed": 1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        RobustnessSettings.model_validate(wrong)
