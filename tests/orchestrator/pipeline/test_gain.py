"""What a search says that it gained over the experiment as it stands, which is its first trial."""

import pytest
import torch
from training_runs import Tables

from orchestrator.pipeline.gain import gained
from orchestrator.pipeline.manifest_content import (
    Evaluated,
    Gain,
    ManifestContent,
    Searched,
    Stage,
    TrialOutcome,
)
from orchestrator.pipeline.stages.evaluate import _gain
from orchestrator.pipeline.summary import Summary, summarise
from orchestrator.tuning.table import outcome

VALUES = {"distillation.temperature": 2.5, "student.training.clip_norm": None}


def searched(best, baseline=None, gain=None, ended=None):
    outcomes = {name: TrialOutcome(trial=name, values=VALUES, score=0.5) for name in (best, baseline) if name}
    ends = {"completed": 2, "failed": 1, "pruned": 3}
    found = Searched(best=outcomes[best], baseline=outcomes.get(baseline), baseline_ended=ended, trials=ends)
    evaluated = Evaluated(predictors={}, gain=gain)
    about = dict.fromkeys(("run_id", "experiment", "result_hash", "data_fingerprint", "code_version"), "x")
    return ManifestContent.model_construct(
        **about,
        stages={
            "search": Stage(seconds=1.0, outputs=found),
            "evaluate": Stage(seconds=1.0, outputs=evaluated),
        },
    )


def test_the_gain_is_that_of_the_accuracies_and_its_interval_that_of_the_images():
    labels = torch.zeros(400, dtype=torch.long)
    right, wrong = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    averaged = torch.stack([right] * 360 + [wrong] * 40)[None]
    baseline = torch.stack([right] * 320 + [wrong] * 80)[None]
    tensors = Tables({"validation/labels": labels, "validation/averaged": averaged})
    assert _gain(tensors) is None
    tensors["validation/baseline"] = baseline
    found = _gain(tensors)
    assert found.value == pytest.approx(0.1)
    # 40 of 400 images differ: a standard deviation of sqrt(0.1 * 0.9 / 400) = 0.015.
    assert (found.low, found.high) == pytest.approx((0.1 - 0.0294, 0.1 + 0.0294), abs=0.004)


def test_a_gain_is_said_with_its_interval_and_whether_it_may_be_chance():
    sure = gained(searched("trial-0002", "trial-0000", Gain(value=0.02, low=0.01, high=0.03)))
    assert sure.startswith(
        "+2.00 points [+1.00, +3.00] of validation accuracy over the experiment as it stands"
    )
    assert "chance" not in sure
    assert "which may be chance" in gained(
        searched("trial-0002", "trial-0000", Gain(value=0.01, low=-0.01, high=0.03))
    )


def test_a_search_that_found_nothing_better_says_that_it_registers_what_a_run_would():
    said = gained(searched("trial-0000", "trial-0000"))
    assert said.startswith("No trial was better on validation images than the experiment as it stands")


@pytest.mark.parametrize(("high", "chance"), [(-0.01, False), (0.01, True)])
def test_a_registered_network_that_is_worse_than_that_of_the_first_trial_is_warned_of(high, chance):
    """The mean over seeds may be better, and the first seed's network worse."""
    said = gained(searched("trial-0002", "trial-0000", Gain(value=-0.02, low=-0.03, high=high)))
    assert said.startswith("WARNING: what is registered is worse on validation images than the experiment as")
    assert f"-2.00 points [-3.00, {100 * high:+.2f}] of accuracy" in said
    assert ("which may be chance" in said) is chance


@pytest.mark.parametrize(
    ("ended", "why"),
    [("out_of_time", "ran out of time"), ("failed", "failed"), ("waiting", "was never begun")],
)
def test_where_the_first_trial_did_not_finish_a_line_says_that_no_gain_is_known_and_why(ended, why):
    said = gained(searched("trial-0001", ended=ended))
    assert said == f"What was gained is not known: the experiment as it stands, the first trial, {why}."


def test_where_the_first_trials_network_is_lost_no_gain_is_known():
    said = gained(searched("trial-0002", "trial-0000", ended="completed"))
    assert said.startswith("What was gained is not known: the network of the experiment as it stands")


def test_of_a_search_of_an_earlier_version_nothing_is_said():
    assert gained(searched("trial-0001")) == ""


def test_the_summary_has_what_the_search_found_and_gained():
    gain = Gain(value=0.02, low=0.01, high=0.03)
    summary = summarise(searched("trial-0002", "trial-0000", gain))
    assert summary.search.best.trial == "trial-0002"
    assert summary.search.baseline.trial == "trial-0000"
    assert summary.search.gain == gain
    assert summary.search.gained == gained(searched("trial-0002", "trial-0000", gain))
    stored = summary.to_json()
    assert stored["search"]["gain"] == {"value": 0.02, "low": 0.01, "high": 0.03}
    assert stored["search"]["best"]["values"] == VALUES
    assert stored["search"]["trials"] == {"completed": 2, "failed": 1, "pruned": 3}
    assert Summary.parse(stored, "summary.json") == summary


def test_of_a_search_it_is_told_how_trials_ended_which_was_best_and_what_it_gained():
    manifest = searched("trial-0002", "trial-0000", Gain(value=0.02, low=0.01, high=0.03))
    ends, best, gain = outcome(manifest)
    assert ends == "Trials: 2 finished, 3 stopped, 1 failed"
    assert best.startswith("Best on validation: trial-0002, 50.00 %, distillation.temperature=2.5, ")
    assert gain == gained(manifest)
    assert len(outcome(searched("trial-0001"))) == 2  # of an earlier version, which tried no baseline


def test_where_nothing_was_searched_nothing_is_told_of_a_search():
    manifest = searched("trial-0001")
    manifest = manifest.model_copy(update={"stages": {}})
    assert outcome(manifest) == []
    assert "search" not in summarise(manifest).to_json()
