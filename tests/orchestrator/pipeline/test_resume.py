"""What a user loses when a run is cut off, by whatever: time, and not a bit else."""

import json
import signal
from pathlib import Path

import pytest
from ekd_process import EkdRun, Started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> EkdRun:
    run = EkdRun(tmp_path_factory.mktemp("uninterrupted"))
    started = run.start()
    assert started.wait() == 0, started.err
    return run


def assert_same_results(run: EkdRun, reference: EkdRun) -> None:
    for name in ("teacher-0", "teacher-1", "control", "student", "averaged"):
        assert weights(run, name).read_bytes() == weights(reference, name).read_bytes(), name
    ours, theirs = (each.summary()["predictors"] for each in (run, reference))
    assert ours.keys() == theirs.keys()
    for name, measured in theirs.items():
        for split in ("validation", "test"):
            assert ours[name][split] == measured[split]


def assert_recorded_once(run: EkdRun, reference: EkdRun) -> None:
    """One parent, four children, one version, every metric once a step: as without an interruption."""
    (parent, children), (their_parent, their_children) = run.mlflow_runs(), reference.mlflow_runs()
    assert children.keys() == their_children.keys() == {"teacher-0", "teacher-1", "control", "student"}
    assert {r.info.status for r in (parent, *children.values())} == {"FINISHED"}
    for name, child in children.items():
        assert run.metric_history(child) == reference.metric_history(their_children[name]), name
    assert run.metric_history(parent).keys() == reference.metric_history(their_parent).keys()
    (version,) = run.client().search_model_versions("name = 'ekd-small'")
    assert version.run_id == parent.info.run_id


def interrupted(started: Started, number: signal.Signals) -> None:
    assert started.interrupt(number) == 1
    assert started.err.rstrip().endswith("ekd: interrupted; the same command continues where it stopped")


def weights(run: EkdRun, name: str) -> Path:
    if name == "averaged":
        return run.storage / "networks" / "averaged.safetensors"
    record = json.loads(run.read(f"networks/{name}.json"))["record"]
    return run.storage.parent / "networks" / f"{record['sha256']}.safetensors"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_an_uninterrupted_run_ends_with_the_registered_models_uri(uninterrupted):
    out = Path(uninterrupted.folder / "start-1.out").read_text()
    assert out.splitlines()[-1] == "models:/ekd-small/1"
    assert_recorded_once(uninterrupted, uninterrupted)


def test_whatever_cuts_a_run_off_costs_not_a_bit(uninterrupted, tmp_path):
    """Every way at another stage of one run: starting it anew for each took minutes, and proved no more.

    What a killed driver costs, the faults of every CI run show (`tests/cluster`).
    """
    run = EkdRun(tmp_path)
    started = run.start()
    started.kill_a_worker()  # while the workers find each other
    started.until(lambda: len(run.checkpoints("student")) == 2)
    started.pause_training()
    second = run.start()  # while the first one lives
    assert second.wait() == 1
    assert f"this run is being run by process {started.process.pid} on" in second.err
    started.go_on_training()
    interrupted(started, signal.SIGINT)
    parent, children = run.mlflow_runs()
    assert {r.info.status for r in (parent, children["student"])} == {"KILLED"}
    assert {children[name].info.status for name in ("teacher-0", "teacher-1")} == {"FINISHED"}
    assert run.manifest()["status"] == "interrupted"
    assert json.loads(run.read("owner.json"))["released"]

    # And the disk was not what it should be either.
    truncate(run.checkpoints("student")[-1].with_suffix(".safetensors"))
    flip_a_byte(weights(run, "teacher-1"))
    started = run.start()
    started.until(lambda: "student: continues after epoch" in started.err)
    assert "teacher-1: " in started.err
    assert "its bytes have changed since it was written (SHA-256 differs); it is trained again" in started.err
    before = run.checkpoints("student")[-1]
    started.until(lambda: run.checkpoints("student")[-1] > before)
    started.kill_a_worker()
    assert started.wait() == 0, started.err
    assert started.out.splitlines()[-1] == "models:/ekd-small/1"
    assert run.mlflow_runs()[0].info.run_id == parent.info.run_id
    assert_same_results(run, uninterrupted)
    assert_recorded_once(run, uninterrupted)


def test_a_run_id_is_not_reused_for_other_settings(uninterrupted):
    before = uninterrupted.manifest()
    started = uninterrupted.start(["student.training.epochs=41", "data.train_size=90"])
    assert started.wait() == 2
    assert "student.training.epochs" in started.err
    assert "data.train_size" in started.err
    assert uninterrupted.manifest() == before


def test_a_finished_run_is_not_run_again(uninterrupted):
    started = uninterrupted.start()
    assert started.wait() == 0
    assert "is complete; nothing to do" in started.err
    assert started.out.splitlines()[-1] == "models:/ekd-small/1"


def test_a_loss_that_is_not_a_number_fails_the_run_at_once(tmp_path):
    run = EkdRun(tmp_path, ["teachers.training.learning_rate=1.0e+30"])
    started = run.start()
    assert started.wait() == 1
    message = next(line for line in started.err.splitlines() if "TrainingDiverged" in line)
    for part in ("ekd: teacher-", "at step 2 (epoch 1)", "learning rate", "last good checkpoint: none yet"):
        assert part in message
    assert "started again" not in started.err
    parent, _ = run.mlflow_runs()
    assert parent.info.status == "FAILED"
    assert run.manifest()["status"] == "failed"
    assert not run.exists("summary.json")
