"""Whole searches as a user starts them."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest
import searches

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_search_registers_the_best_student_and_can_be_browsed(tmp_path: Path) -> None:
    status, out, err = searches.finish(searches.start(tmp_path, "--trials", "5"))
    assert status == 0, err[-2000:]
    assert out.splitlines()[-1] == "models:/ekd-digits/1"
    records = searches.trials(tmp_path)
    assert sorted(records) == [0, 1, 2, 3, 4]
    assert {record["status"] for record in records.values()} <= {"completed", "pruned"}
    best = max(records.values(), key=lambda r: (r["history"][-1]["score"], -r["history"][-1]["score_nll"]))
    assert f"Best on validation: trial-{best['number']:04d}" in out
    standing = records[0]  # the experiment as it stands, trained in full
    assert (standing["baseline"], standing["status"]) == (True, "completed")
    assert standing["values"] == {"distillation.temperature": 4.0, "perturbation.strength": 1.0}
    assert best["history"][-1]["score"] >= standing["history"][-1]["score"]
    assert "the experiment as it stands (trial-0000)" in out

    runs = searches.mlflow_runs(tmp_path)
    names = Counter(run.info.run_name for run in runs)
    assert set(names.values()) == {1}
    assert {name for name in names if name.startswith("trial-")} == {f"trial-{n:04d}" for n in range(5)}
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert searches.mlflow_artifacts(tmp_path, parent.info.run_id, "search") == {"search/trials.json"}
    assert parent.data.tags["ekd.command"].startswith("ekd tune digits --space")
    assert parent.data.tags["ekd.search.best"] == f"trial-{best['number']:04d}"
    assert parent.data.metrics["search/trials"] == 5
    page = (tmp_path / "runs/search/report.html").read_text()
    assert 'id="search"' in page
    assert f"Report: {tmp_path / 'runs/search/report.html'}" in out
    for number, record in records.items():
        run = next(run for run in runs if run.info.run_name == f"trial-{number:04d}")
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["ekd.trial.status"] == record["status"]
        assert run.data.params["distillation.temperature"] == str(
            record["values"]["distillation.temperature"]
        )
        assert run.data.metrics["score"] == pytest.approx(record["history"][-1]["score"])
        assert not any("test" in name for name in run.data.metrics)


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ("--trials", "3", "--max-concurrent", "1", "--searcher", "optuna", "--scheduler", "none")
    process = searches.start(tmp_path, *options)
    folder = tmp_path / "runs/search/trials"
    while not (  # the second trial is in the middle of its training
        (folder / "trial-0000/trial.json").exists()
        and searches.trials(tmp_path)[0]["status"] == "completed"
        and len(list(folder.glob("trial-0001/seed-0/epoch-*.json"))) > 0
    ):
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = searches.trials(tmp_path)
    finished = (folder / "trial-0000/trial.json").read_bytes()
    checkpoint = max(folder.glob("trial-0001/seed-0/epoch-*.json"))
    assert before[1]["status"] == "proposed"

    status, out, err = searches.finish(searches.start(tmp_path, *options))
    assert status == 0, err[-2000:]
    assert "teachers: done before" in err
    assert (folder / "trial-0000/trial.json").read_bytes() == finished
    after = searches.trials(tmp_path)
    assert after[1]["values"] == before[1]["values"]
    assert [r["epoch"] for r in after[1]["history"]] == list(range(1, 10))
    assert int(checkpoint.stem.split("-")[1]) < 9
    assert {record["status"] for record in after.values()} == {"completed"}
    names = Counter(run.info.run_name for run in searches.mlflow_runs(tmp_path))
    assert set(names.values()) == {1}, names
    assert len(names) == 1 + 2 + 3 + 2  # parent, teachers, trials, control and student
    assert out.splitlines()[-1] == "models:/ekd-digits/1"


def test_workers_of_a_stopped_trial_are_taken_over_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """The cluster has room for one worker pool: were a stopped trial's not free, the next would wait."""
    changes = {"cluster.workers_per_run": 2, "cluster.max_failures": 1}
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


def test_accuracy_is_weighed_against_cost_over_several_seeds(tmp_path: Path) -> None:
    options = ("--trials", "3", "--searcher", "pareto", "--scheduler", "none", "--seeds", "2")
    process = searches.start(tmp_path, *options, space=searches.COSTLY_SPACE)
    status, out, err = searches.finish(process)
    assert status == 0, err[-2000:]
    records = searches.trials(tmp_path).values()
    assert {record["status"] for record in records} == {"completed"}
    for record in records:
        last = record["history"][-1]
        assert last["score"] == pytest.approx((last["seeds/0/score"] + last["seeds/1/score"]) / 2)
    reached = {f"trial-{r['number']:04d}": (r["history"][-1]["score"], r["cost"]) for r in records}
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
