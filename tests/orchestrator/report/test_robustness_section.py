"""The section on `ekd evaluate`: there when it was called, with the numbers that it found."""

import re
from dataclasses import replace

import pytest

from ekd_train.robustness import ood_detection
from orchestrator.report import render
from orchestrator.report.robustness import SCORES, robustness_section

from .conftest import evaluated, make_evidence


@pytest.fixture(scope="module")
def section(evidence):
    return robustness_section(evaluated(evidence))


@pytest.fixture(scope="module")
def text(evidence):
    return render(evaluated(evidence))


@pytest.mark.slow
def test_without_an_evaluation_there_is_neither_section_nor_link(evidence):
    page = render(evidence)
    assert 'id="robustness"' not in page
    assert "#robustness" not in page


def test_the_section_follows_the_confusion_and_is_linked(text):
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections[sections.index("confusion") + 1] == "robustness"
    assert '<a href="#robustness">' in text


def test_only_corruptions_that_were_made_are_listed(section, text):
    assert section.families == {"weather": ["fog"], "digital": ["jpeg"]}
    assert "shot noise" not in text


def test_the_sentence_compares_with_control_and_ensemble(section, evidence):
    found = section.corruption
    assert f"reaches {100 * found['averaged']['mean']['accuracy']:.1f} % accuracy" in section.headline
    assert "the control" in section.headline
    assert f"{found['averaged']['mce']:.2f} times" in section.headline


@pytest.mark.slow
def test_what_could_not_be_computed_is_a_dash_and_not_a_zero(evidence):
    run = evaluated(evidence)
    found = {key: value for key, value in run.evaluation.items() if key != "out_of_distribution"}
    by_predictor = {
        name: {key: value for key, value in of.items() if key != "mce"}
        for name, of in found["corruption"]["predictors"].items()
    }
    found["corruption"] = {**found["corruption"], "predictors": by_predictor}
    page = render(replace(run, evaluation=found))
    assert "<td>–</td></tr>" in page
    assert "Not measured: no other data set" in page


@pytest.mark.slow
def test_a_student_without_members_has_a_section_too():
    page = render(evaluated(make_evidence(method="kd")))
    assert 'id="robustness"' in page


def test_accuracy_and_nll_under_corruption_have_intervals_and_differences_to_the_control(section, text):
    low, high = section.corruption["averaged"]["intervals"]["accuracy"]
    assert f"<small>{100 * low:.2f} to {100 * high:.2f}</small>" in text
    one = section.minus_control["averaged"]["nll"]
    sign = "" if one.excludes_zero else "<sup>†</sup>"
    ends = f"{_signed(one.low)} to {_signed(one.high)}"
    assert f"{_signed(one.value)}{sign}<small>{ends}</small></td>" in text
    assert "minus_control" not in section.corruption["control"]
    assert "earlier version" not in text


def test_telling_foreign_images_has_intervals_and_differences_to_the_control(section, text):
    low, high = section.found["out_of_distribution"]["predictors"]["members"]["disagreement"]["intervals"][
        "fpr_at_95"
    ]
    assert f"<small>{100 * low:.1f} to {100 * high:.1f}</small>" in text
    one = section.detection["averaged"]["entropy"].minus_control["auroc"]
    assert f"<small>{_signed(100 * one.low, 1)} to {_signed(100 * one.high, 1)}</small></td>" in text
    assert section.detection["members"]["disagreement"].minus_control == {}
    assert section.scores_of_control == {"max_probability", "entropy"}
    assert set(SCORES) == set(ood_detection.SCORES)
    assert "known and foreign images resampled" in text


def without_intervals_of_detection(run):
    """As `ekd evaluate` made it before there were any."""
    detection = run.evaluation["out_of_distribution"]
    bare = {
        name: {
            score: {merit: of[merit] for merit in ("auroc", "fpr_at_95")} for score, of in by_score.items()
        }
        for name, by_score in detection["predictors"].items()
    }
    return replace(
        run, evaluation={**run.evaluation, "out_of_distribution": {**detection, "predictors": bare}}
    )


def test_detection_from_before_it_had_intervals_says_so(evidence):
    page = render(without_intervals_of_detection(evaluated(evidence)))
    assert "Made by an earlier version of ekd, without intervals" in page
    assert "known and foreign images resampled" not in page


def _signed(value, digits=3):
    return f"{value:+.{digits}f}".replace("-", "−")


def test_an_evaluation_from_before_there_were_intervals_has_a_section_without_them(evidence):
    run = evaluated(evidence)
    by_predictor = {
        name: {key: value for key, value in of.items() if key not in ("intervals", "minus_control")}
        for name, of in run.evaluation["corruption"]["predictors"].items()
    }
    corruption = {**run.evaluation["corruption"], "predictors": by_predictor}
    old = replace(run, evaluation={**run.evaluation, "corruption": corruption})
    assert robustness_section(old).intervals["averaged"] == {}
    page = render(old)
    assert 'id="robustness"' in page
    assert "Made by an earlier version of ekd, whose corruptions were other ones" in page
