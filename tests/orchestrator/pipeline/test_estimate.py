"""The time that is left: of made-up runs exactly, of recorded ones nearly.

`recorded/` has the events of `ekd run digits` and of `ekd tune digits --space student --trials 8`, each
with its second, as the driver saw them on a busy machine of two cores; of every second validated epoch.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter
from training_runs import a_description

from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.estimate import Training, seconds_left
from orchestrator.pipeline.progress import View
from orchestrator.planning.effort import GPU, efforts
from orchestrator.runtime.event import Event, Started
from orchestrator.tuning.cost import expected_trial
from orchestrator.tuning.pool import pool_experiment
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import Stopping
from orchestrator.tuning.space import load_space

DIGITS = load_experiment("digits")
DESCRIPTION = a_description(train=200, validation=497, test=1000, num_classes=10)


def running(name: str, fraction: float, effort: float = 10.0, **more) -> Training:
    """Began at 1 s, and is so far at 11 s."""
    return Training(name, 10, effort, status="training", began=1.0, seen=11.0, fraction=fraction, **more)


def test_nothing_is_promised_before_the_first_progress():
    assert seconds_left([Training("a", 10, 1.0)], 2, now=5.0) is None


def test_what_waits_takes_turns_on_as_many_groups_as_there_are():
    waiting = [Training(name, 10, 10.0) for name in "bcd"]
    first = running("a", 0.5)  # 20 s in all
    assert seconds_left([first, *waiting], 1, now=11.0) == pytest.approx(10 + 3 * 20)
    assert seconds_left([first, *waiting], 2, now=11.0) == pytest.approx(20 + 20)
    assert seconds_left([first, *waiting], 9, now=11.0) == pytest.approx(20)


def test_what_needs_another_waits_for_it_however_many_groups_are_free():
    student = Training("student", 10, 30.0, needs=("a",))
    assert seconds_left([running("a", 0.5), student], 4, now=11.0) == pytest.approx(10 + 60)


def test_time_goes_on_between_two_reports():
    assert seconds_left([running("a", 0.5)], 1, now=15.0) == pytest.approx(6)
    assert seconds_left([running("a", 0.5)], 1, now=50.0) == 0


def test_a_run_that_was_continued_has_the_pace_of_what_it_trained_since():
    assert seconds_left([running("a", 0.75, began_fraction=0.5)], 1, now=11.0) == pytest.approx(10)


def test_a_trial_counts_until_it_is_expected_to_end_and_has_a_pace_of_its_own():
    done = Training("a", 10, 10.0, status="done", began=1.0, seen=3.0, fraction=1.0)
    stopped = running("t-0", 0.5, until=0.6, trial=True)
    waits = Training("t-1", 10, 10.0, until=0.25, trial=True)
    assert seconds_left([done, stopped, waits], 1, now=11.0) == pytest.approx(2 + 5)


def test_what_takes_no_longer_on_a_gpu_weighs_more_there():
    on_gpu = DIGITS.model_copy(update={"cluster": DIGITS.cluster.model_copy(update={"gpus_per_worker": 1})})
    cpu, gpu = efforts(DIGITS, DESCRIPTION), efforts(on_gpu, DESCRIPTION)
    assert 1 < gpu["control"] / cpu["control"] < GPU
    # A student's step is 13 calls to a teacher's 3, in which its members go together: 22 passes to 3.
    assert 13 / 3 > gpu["student"] / gpu["control"] > 1


def replayed(name: str, view: View, clock: SimpleNamespace) -> Iterator[tuple[float, float, float | None]]:
    """At each event the share of the recording that is over, the seconds then left, and their estimate."""
    recorded = json.loads((Path(__file__).parent / "recorded" / f"{name}.json").read_text())
    end = recorded[-1][0]
    for second, content in recorded:
        clock.now = 1000.0 + second
        event: Event = TypeAdapter(Event).validate_python(
            content if content["kind"] != "trial" else {"kind": "started", "run": content["run"], "epoch": 0}
        )
        if content["kind"] == "trial":
            view.expect(of_trial(int(event.run[-4:]), content["values"]), bar=False)
        view.show(event)
        run = view.runs[event.run]
        if run.trial and not isinstance(event, Started):
            run.until = of_trial(int(event.run[-4:]), None, run.epoch).until
        yield second / end, end - second, view.seconds_left()


SPACE = load_space("student")
REQUEST = SearchRequest(space=SPACE, trials=8)
STOPPING = Stopping("asha", trials=8, longest=200, grace=8, factor=3.0)
POOL = pool_experiment(DIGITS, SPACE.domains)


def of_trial(number: int, values: dict | None, epoch: int = 0) -> Training:
    return expected_trial(
        POOL, REQUEST, STOPPING, number, efforts(POOL, DESCRIPTION)["student"], values, epoch
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0, monotonic=lambda: made.now)
    monkeypatch.setattr("orchestrator.pipeline.progress.time", made)
    return made


def expecting(experiment, *, student: bool) -> View:
    view = View()
    view.console.quiet, view.at_once = True, 2
    runs = [*experiment.teacher_runs(), experiment.control_run(), experiment.student_run()]
    for run in runs if student else runs[:-1]:
        effort = efforts(experiment, DESCRIPTION)[run.name]
        needs = tuple(other.name for other in run.needs)
        view.expect(Training(run.name, run.training.epochs, effort, needs))
    return view


def test_after_a_tenth_of_a_run_the_time_left_is_right_within_a_quarter(clock):
    seen = list(replayed("run_digits", expecting(DIGITS, student=True), clock))
    later = [(left, true) for share, true, left in seen if 0.1 <= share <= 0.95]
    assert len(later) > 100
    for left, true in later:
        assert left == pytest.approx(true, rel=0.25)


def test_once_trials_report_the_time_left_of_a_search_is_right_within_a_factor_of_two(clock):
    """Until the last trial begins; of eight trials four trained in full, which nobody could know."""
    view = expecting(POOL, student=False)
    for number in range(REQUEST.trials):
        view.expect(of_trial(number, None), bar=False)
    seen = list(replayed("tune_digits", view, clock))
    later = [(left, true) for share, true, left in seen if 0.2 <= share <= 0.7]
    assert len(later) > 50
    for left, true in later:
        assert true / 2 < left < true * 2
