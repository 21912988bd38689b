"""Whole searches as a user starts them."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import searches

from orchestrator.pipeline.status import one_run
from orchestrator.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Searched:
    """A search of accuracy and cost over two seeds that was killed in its second trial, and went on."""

    folder: Path
    before: dict[int, dict[str, Any]]
    """The trials when it was killed."""
    first: bytes
    """The record of the first trial then."""
    epoch: int
    """The last epoch of the second trial that had a checkpoint."""
    out: str
    err: str

    @property
    def trials(self) -> dict[int, dict[str, Any]]:
        return searches.trials(self.folder)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Searched:
    place = tmp_path_factory.mktemp("searched")
    options = ("--trials", "4", "--max-concurrent", "1", "--searcher", "pareto", "--scheduler", "none")

    def begin():
        return searches.start(place, *options, "--seeds", "2", space=searches.COSTLY_SPACE)

    process = begin()
    folder = place / "runs/search/trials"
    while not (  # the second trial is in the middle of its training
        (folder / "trial-0000/trial.json").exists()
        and searches.trials(place)[0]["status"] == "completed"
        and len(list(folder.glob("trial-0001/seed-0/epoch-*.json"))) > 0
    ):
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = searches.trials(place)
    first = (folder / "trial-0000/trial.json").read_bytes()
    checkpoint = max(folder.glob("trial-0001/seed-0/epoch-*.json"))
    status, out, err = searches.finish(begin())
    assert status == 0, err[-2000:]
    return Searched(place, before, first, int(checkpoint.stem.split("-")[1]), out, err)


def test_a_killed_search_goes_on_where_it_was(searched: Searched) -> None:
    assert searched.before[1]["status"] == "proposed"
    assert searched.epoch < 9
    assert "teachers: done before" in searched.err
    folder = searched.folder / "runs/search/trials"
    assert (folder / "trial-0000/trial.json").read_bytes() == searched.first
    assert searched.trials[1]["values"] == searched.before[1]["values"]
    assert [r["epoch"] for r in searched.trials[1]["history"]] == list(range(1, 10))
    assert {record["status"] for record in searched.trials.values()} == {"completed"}


def test_a_search_registers_the_best_student_and_says_what_it_gained(searched: Searched) -> None:
    assert searched.out.splitlines()[-1] == "models:/ekd-digits/1"
    records = searched.trials
    assert sorted(records) == [0, 1, 2, 3]
    best = re.search(r"Best on validation: trial-(\d+)", searched.out)
    assert best is not None
    scores = {number: record["history"][-1]["score"] for number, record in records.items()}
    assert scores[int(best[1])] == max(scores.values())
    standing = records[0]  # the experiment as it stands, trained in full
    assert (standing["baseline"], standing["status"]) == (True, "completed")
    as_it_stands = {"distillation.temperature": 4.0, "student.members": 2, "teachers.count": 2}
    assert standing["values"] == as_it_stands  # of four, which a trial of four members needs
    assert "the experiment as it stands (trial-0000)" in searched.out


def test_a_search_can_be_browsed_in_mlflow_and_in_its_report(searched: Searched) -> None:
    runs = searches.mlflow_runs(searched.folder)
    names = Counter(run.info.run_name for run in runs)
    assert set(names.values()) == {1}, names
    assert {name for name in names if name.startswith("trial-")} == {f"trial-{n:04d}" for n in range(4)}
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    stored = searches.mlflow_artifacts(searched.folder, parent.info.run_id, "search")
    assert stored == {"search/trials.json"}
    assert parent.data.tags["ekd.command"].startswith("ekd tune digits --space")
    assert f"Best on validation: {parent.data.tags['ekd.search.best']}" in searched.out
    assert parent.data.metrics["search/trials"] == 4
    report = searched.folder / "runs/search/report.html"
    assert 'id="search"' in report.read_text()
    assert f"Report: {report}" in searched.out
    for number, record in searched.trials.items():
        run = next(run for run in runs if run.info.run_name == f"trial-{number:04d}")
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["ekd.trial.status"] == record["status"]
        for key, value in record["values"].items():
            assert run.data.params[key] == str(value)
        assert run.data.metrics["score"] == pytest.approx(record["history"][-1]["score"])
        assert not any("test" in name for name in run.data.metrics)


def test_accuracy_is_weighed_against_cost_over_several_seeds(searched: Searched) -> None:
    records, out = searched.trials.values(), searched.out
    for record in records:
        last = record["history"][-1]
        assert last["score"] == pytest.approx((last["seeds/0/score"] + last["seeds/1/score"]) / 2)
    reached = {f"trial-{r['number']:04d}": (r["history"][-1]["score"], r["full_cost"]) for r in records}
    assert len({cost for _, cost in reached.values()}) == len(
        {r["values"]["student.members"] for r in records}
    )
    beaten = {
        name
        for name, (score, cost) in reached.items()
        for other, (its_score, its_cost) in reached.items()
        if (its_score >= score and its_cost <= cost and (its_score, its_cost) != (score, cost))
        or ((its_score, its_cost) == (score, cost) and other < name)
    }
    printed = re.findall(r"^ +([0-9.]+) % +([0-9.e+]+) +(trial-\d+): ", out, re.MULTILINE)
    assert {name for _, _, name in printed} == reached.keys() - beaten
    for percent, cost, name in printed:
        assert float(percent) == pytest.approx(100 * reached[name][0], abs=0.006)
        assert float(cost) == pytest.approx(reached[name][1], rel=1e-4)
    best = max(score for score, _ in reached.values())
    assert f"{100 * best:.2f} %" in next(line for line in out.splitlines() if "Best on validation" in line)


def test_workers_of_a_stopped_trial_are_taken_over_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """The cluster has room for one worker pool: were a stopped trial's not free, the next would wait."""
    changes = {
        "cluster.workers_per_run": 2,
        "cluster.max_failures": 1,
        "student.training.batch_norm": "synchronised",
    }
    process = searches.start(tmp_path, "--searcher", "grid", **changes)
    folder = tmp_path / "runs/search/trials/trial-0000"
    while not (checkpoints := list(folder.glob("seed-0/epoch-*.json"))):
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    searches.kill_a_worker(process, tmp_path)
    status, out, err = searches.finish(process)
    assert status == 0, err[-2000:]
    assert max(int(path.stem.split("-")[1]) for path in checkpoints) < 9
    records = searches.trials(tmp_path)
    assert len(records) == 7  # six points, and the experiment as it stands, which is trained in full
    assert records[0]["status"] == "completed"
    assert [r["epoch"] for r in records[0]["history"]] == list(range(1, 10))
    pruned = [record for record in records.values() if record["status"] == "pruned"]
    assert pruned, [record["status"] for record in records.values()]
    for record in pruned:  # nothing ran ahead of the decision, and nothing is left of it
        assert record["history"][-1]["epoch"] < 9
        assert not list((tmp_path / f"runs/search/trials/trial-{record['number']:04d}").glob("seed-*/*"))
    assert out.splitlines()[-1] == "models:/ekd-digits/1"


def test_a_trial_that_stands_still_is_named_started_again_and_costs_the_search_nothing(
    tmp_path: Path,
) -> None:
    """One at a time: what stands still is the second trial, in the process that has trained the first."""
    changes = {
        "cluster.liveness.said_after_s": 10,
        "cluster.liveness.restart_after_s": 30,  # time to be seen in `ekd status`
        "student.training.epochs": 80,
        "student.training.evaluate_every": 8,
        "student.training.checkpoint_every": 8,
    }
    options = ("--trials", "2", "--max-concurrent", "1", "--scheduler", "none")
    harmed, unharmed = tmp_path / "harmed", tmp_path / "unharmed"
    process = searches.start(harmed, *options, **changes)
    while not list((harmed / "runs/search/trials/trial-0001").glob("seed-0/epoch-*.json")):
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    (stopped,) = searches.stop_trials(process, harmed)
    run, silent = open_storage(str(harmed / "runs/search")), None
    while silent is None or int(silent[1]) < 3:
        assert process.poll() is None, process.communicate()[1][-2000:]
        silent = re.search(r"trial-0001 +training: .*epoch \d+ of 80, (\d+) s ago", one_run(run, "search"))
        time.sleep(0.5)
    status, out, err = searches.finish(process)
    assert status == 0, err[-2000:]
    named = rf"WARNING: trial-0001: nothing heard of its process \({stopped} on \S+\) for \d+ s"
    assert re.search(rf"{named}$", err, re.MULTILINE), err[-2000:]
    again = re.search(rf"{named}: it is ended, and the trial goes on from its last checkpoint$", err, re.M)
    assert again, err[-2000:]
    status, its_out, err = searches.finish(searches.start(unharmed, *options, **changes))
    assert status == 0, err[-2000:]
    assert {n: record["history"] for n, record in searches.trials(harmed).items()} == {
        n: record["history"] for n, record in searches.trials(unharmed).items()
    }
    best, its_best = (
        next(line for line in said.splitlines() if "Best on" in line) for said in (out, its_out)
    )
    assert best == its_best
