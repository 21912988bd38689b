"""What a search says that it gained over the experiment as it stands, which is its first trial."""

import pytest
import torch
from training_runs import Tables

from orchestrator.pipeline.manifest_content import (
    Evaluated,
    Gain,
    ManifestContent,
    Searched,
    Stage,
    TrialOutcome,
)
from orchestrator.pipeline.stages.evaluate import _gain
from orchestrator.pipeline.summary import gained


def searched(best, baseline=None, gain=None):
    outcomes = {name: TrialOutcome(trial=name, values={}, score=0.5) for name in (best, baseline) if name}
    found = Searched(best=outcomes[best], baseline=outcomes.get(baseline))
    evaluated = Evaluated(predictors={}, gain=gain)
    return ManifestContent.model_construct(
        stages={
            "search": Stage(seconds=1.0, outputs=found),
            "evaluate": Stage(seconds=1.0, outputs=evaluated),
        }
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


def test_of_a_search_of_an_earlier_version_nothing_is_said():
    assert gained(searched("trial-0001")) == ""
