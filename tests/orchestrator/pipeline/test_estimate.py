"""The time that is left: of made-up runs exactly, of recorded ones nearly.

`recorded/` has the events of `ekd run digits` and of `ekd tune digits --space student --trials 8`, each
with its second, on two cores; of every second validated epoch. Those of the run are as the driver saw them.
The search was recorded beside other work: what each trial did is as it was, and every process has a core to
itself, on which a validated epoch takes the CPU seconds that the median of its kind took (a teacher's, a
student's of so many members), and a process what it took to start.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import TypeAdapter
from training_runs import a_description

from ekd_train.settings import TrainingRun
from orchestrator.experiment.schema import load_experiment
from orchestrator.pipeline.estimate import Training, seconds_left
from orchestrator.pipeline.progress import View
from orchestrator.planning.effort import GPU, efforts
from orchestrator.runtime.event import Event, Started, Validated
from orchestrator.storage import LocalStorage
from orchestrator.tuning.callback import SearchCallback
from orchestrator.tuning.cost import Forecast
from orchestrator.tuning.pool import baseline_values, pool_experiment, trial_runs
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.space import load_space
from orchestrator.tuning.trial_store import TrialRecord, TrialStore

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


def recording(name: str) -> list[tuple[float, dict[str, Any]]]:
    return [
        (second, content)
        for second, content in json.loads((Path(__file__).parent / "recorded" / f"{name}.json").read_text())
    ]


def replayed(
    events: list[tuple[float, dict[str, Any]]],
    view: View,
    clock: SimpleNamespace,
    show: Callable[[dict[str, Any]], None],
) -> Iterator[tuple[float, float, float | None]]:
    """At each event the share of the recording that is over, the seconds then left, and their estimate."""
    end = events[-1][0]
    for second, content in events:
        clock.now = 1000.0 + second
        show(content)
        yield second / end, end - second, view.seconds_left()


def shown_by(view: View) -> Callable[[dict[str, Any]], None]:
    return lambda content: view.show(TypeAdapter(Event).validate_python(content))


SPACE = load_space("student")
REQUEST = SearchRequest(space=SPACE, trials=8)
POOL = pool_experiment(DIGITS, SPACE.domains)


class Stored:
    """Networks of which those of the trials of these numbers are there."""

    def __init__(self, *values: dict[str, Any]) -> None:
        self.there = [trial_runs(POOL, each, 1)[0] for each in values]

    def find(self, run: TrainingRun) -> object | None:
        return run if run in self.there else None


def forecast(*stored: dict[str, Any]) -> Forecast:
    return Forecast(POOL, REQUEST, DESCRIPTION, cast(Any, Stored(*stored)))


class Watched:
    """The driver of a search, which Tune and the worker groups tell what was recorded."""

    def __init__(self, folder: Path, expected: Forecast) -> None:
        self.view = expecting(POOL, student=False)
        store = TrialStore(LocalStorage(folder))
        for trial in expected.trials(store.trials):
            self.view.expect(trial, bar=False)
        self.callback = SearchCallback(
            store,
            cast(Any, SimpleNamespace(observe=lambda record: None)),
            None,
            self.view,
            REQUEST.trials,
            expected=lambda record: expected.trial(record.number, record.values),
            until=lambda record: expected.until(record, store.trials.values()),
        )

    def show(self, content: dict[str, Any]) -> None:
        if not content["run"].startswith("trial"):
            shown_by(self.view)(content)
            return
        trial: Any = SimpleNamespace(config={"number": int(content["run"][-4:])}, last_result={})
        match content["kind"]:
            case "trial":
                self.callback.store.add(trial.config["number"], content["values"], 1.0)
                self.callback.on_trial_start(0, [], trial)
            case "epoch":
                self.callback.on_trial_result(0, [], trial, {"record": dict(content["record"])})
            case "done":
                self.callback.on_trial_complete(0, [], trial)


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
    view = expecting(DIGITS, student=True)
    seen = list(replayed(recording("run_digits"), view, clock, shown_by(view)))
    later = [(left, true) for share, true, left in seen if 0.1 <= share <= 0.95]
    assert len(later) > 100
    for left, true in later:
        assert left == pytest.approx(true, rel=0.25)


def test_after_a_tenth_of_a_search_the_time_left_is_right_within_a_quarter(clock, tmp_path):
    """And none is said before a trial has reported. Of eight six trained in full; five were expected to."""
    driver = Watched(tmp_path, forecast())
    seen = list(replayed(recording("tune_digits"), driver.view, clock, driver.show))
    known = [(share, true, left) for share, true, left in seen if left is not None and share <= 0.95]
    assert len(known) > 200
    assert all(left is not None for share, _, left in seen if share > 0.11)
    for share, true, left in known:
        assert left == pytest.approx(true, rel=0.25), f"after {share:.0%}"


def test_what_is_stored_already_is_no_work_of_a_search():
    baseline = baseline_values(POOL, SPACE.domains)
    first, second, *_ = forecast(baseline).trials({})
    assert (first.effort, first.seconds_left(0.0, None)) == (0.0, 0.0)
    assert second.effort > 0
    ended = TrialRecord(number=1, values=baseline | {"student.members": 2}, status="pruned")
    assert [trial.status for trial in forecast().trials({1: ended})[:3]] == ["waiting", "done", "waiting"]


def test_a_trial_that_is_good_enough_for_the_rung_already_is_expected_to_pass_it():
    def trial(number, epoch, score):
        return TrialRecord(number=number, values={}, history=({"epoch": epoch, "score": score},))

    others = [trial(0, 128.0, 0.8), trial(1, 128.0, 0.6), trial(2, 64.0, 0.9)]  # the rung is after 125
    good, weak = (forecast().until(trial(3, 40.0, score), others) for score in (0.8, 0.5))
    assert good == 1
    assert 125 / 200 < weak < 1
    assert forecast().until(trial(3, 40.0, 0.8), others[2:]) == weak


def test_a_trial_of_two_seeds_of_which_one_is_stored_takes_half_as_long():
    baseline = baseline_values(POOL, SPACE.domains)
    two = replace(forecast(baseline), request=REQUEST.model_copy(update={"seeds": 2}))
    assert two.trial(0, baseline).effort == pytest.approx(forecast().trial(0, baseline).effort)


def test_starting_the_process_of_a_trial_is_no_part_of_its_pace(clock):
    view = View()
    view.console.quiet = True
    view.expect(Training("trial-0000", 10, 1.0, trial=True))
    view.show(Started(run="trial-0000", epoch=0))
    for second, epoch in ((60, 1), (61, 2)):
        assert view.seconds_left() is None
        clock.now = 1000.0 + second
        view.show(Validated(run="trial-0000", record={"epoch": float(epoch)}))
    assert view.seconds_left() == pytest.approx(8)


def test_how_long_a_trial_takes_is_not_guessed_from_its_teachers():
    trial = Training("trial-0000", 10, 10.0, trial=True)
    assert seconds_left([running("teacher-0", 0.5), trial], 2, now=11.0) is None
    assert seconds_left([running("trial-0001", 0.5, trial=True), trial], 2, now=11.0) == pytest.approx(20)
