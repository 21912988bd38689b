"""Whatever breaks, the run ends with the same registered result, once, and in bounded time."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job import EXPERIMENT, Job
from ray_hosts import API, BIN, HEAD, WORKERS
from servers import KEY_ID, SECRET, wait_until
from times import TIMES, Times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


ACCURACY_TOLERANCE = 0.06
"""Between runs with other numbers of workers: 15 of 256 test images."""


@pytest.fixture(scope="module")
def times(request):
    return request.config.stash.setdefault(TIMES, Times())


@pytest.fixture(scope="module")
def unharmed(cluster, times):
    """The run that nothing happens to."""
    began = time.monotonic()
    job = Job(cluster, "unharmed").submit()
    made = job.finish()
    times.note("none", 0, 0, time.monotonic() - began)
    return made


@pytest.fixture
def whole(cluster):
    """The cluster, with all of its hosts up before the test and after it."""
    cluster.make_whole()
    return cluster


@pytest.fixture
def submit(whole, request):
    jobs = []

    def submit_it(run_id, *settings):
        jobs.append(Job(whole, run_id, *settings))
        return jobs[-1].submit()

    yield submit_it
    for job in jobs:
        job.clear_away()


def goes_on(job, name, timeout_s=300):
    """Seconds until `name` has a newer checkpoint than now, or is done."""
    before = job.newest_epoch(name)
    done = f"ekd/{job.run_id}/networks/{name}.json"
    return wait_until(
        lambda: job.reached(name) > before or done in job.cluster.store.keys(done),
        f"{name} going on after epoch {before}",
        timeout_s,
    )


def trains_on(job, hosts):
    """Whether as many hosts train; fails if the run is over."""
    assert job.process.poll() is None, f"the run was over before it had {hosts} hosts:\n{job.log}"
    return len(job.training_hosts()) == hosts


def says(job, text, timeout_s=180):
    """Seconds until the run's log holds `text`."""

    def said() -> bool:
        assert text in job.log or job.process.poll() is None, f"{text!r} was not said:\n{job.log}"
        return text in job.log

    return wait_until(said, f"{text!r} in the log", timeout_s)


def test_the_unharmed_run_keeps_everything_in_s3_and_sends_no_artifact_through_the_server(cluster, unharmed):
    keys = cluster.store.keys("ekd/unharmed/")
    for name in ("manifest.json", "experiment.json", "summary.json", "networks/averaged.safetensors"):
        assert f"ekd/unharmed/{name}" in keys
    assert any(key.endswith("model.pt2") or "/data/" in key for key in cluster.store.keys("ekd/mlartifacts/"))
    assert not cluster.tracking.proxied.exists() or not any(cluster.tracking.proxied.iterdir())


def test_plain_ray_job_submit_of_the_finished_run_finds_nothing_to_do(cluster, unharmed):
    done = cluster.desk.call(
        *(str(BIN / "ray"), "job", "submit", "--address", API, "--working-dir", str(EXPERIMENT.parent)),
        *("--", "ekd", "run", EXPERIMENT.name, "--run-id", "unharmed"),
        timeout_s=180,
    )
    assert "nothing to do" in done.stdout
    assert "models:/ekd-matrix/1" in done.stdout


def test_a_search_by_plain_ray_job_submit_trains_its_trials_on_every_host(whole, unharmed, times):
    """One worker a trial, three CPUs on three hosts: each has its copy of teachers and data."""
    began = time.monotonic()
    done = whole.desk.call(
        *(str(BIN / "ray"), "job", "submit", "--address", API, "--working-dir", str(EXPERIMENT.parent)),
        *("--", "ekd", "tune", EXPERIMENT.name, "--space", "small_space.yaml", "--searcher", "grid"),
        *("--run-id", "searched", "--set", "cluster.workers_per_run=1", "--set", "cluster.runs_at_once=3"),
        timeout_s=600,
    )
    assert re.search(r"^models:/ekd-matrix/\d+$", done.stdout, re.MULTILINE), done.stdout[-3000:]
    trials = [f"ekd/searched/trials/trial-{number:04d}/trial.json" for number in range(4)]
    assert set(trials) <= set(whole.store.keys("ekd/searched/trials/"))
    assert {json.loads(whole.store.read(key))["status"] for key in trials} <= {"completed", "pruned"}
    times.note("none, a search", 0, 0, time.monotonic() - began)


def test_an_elastic_run_shrinks_with_a_lost_host_and_grows_when_it_comes_back(submit, unharmed, times):
    began = time.monotonic()
    settings = (
        "cluster.workers_per_run=[1, 3]",
        "cluster.resize_every_s=15",  # at a minute, and with Ray a look behind, the run may be over first
        "student.training.epochs=400",
        "student.training.checkpoint_every=5",
    )
    job = submit("elastic", *settings)
    job.wait_for_checkpoint("student", 5)
    assert len(job.training_hosts()) == 3
    job.cluster.hosts["worker2"].pull_the_plug()
    noticed, continued = says(job, "has been marked dead"), says(job, "student: continues after epoch")
    assert len(job.training_hosts()) == 2
    job.cluster.start_worker("worker2")
    grown = wait_until(lambda: trains_on(job, 3), "three workers again", 240)
    goes_on(job, "student")
    times.note("3 a host is lost and comes back (elastic): shrinks", noticed, noticed + continued, 0)
    times.note("3 a host is lost and comes back (elastic): grows", 0, grown, time.monotonic() - began)
    made = job.finish()
    assert made["steps"]["student"] == list(range(2, 401, 2))
    # Batch statistics are of a worker's share, so the bits are others; what they are worth is not.
    alike = submit("elastic-unharmed", *settings).finish()
    assert made["steps"] == alike["steps"]
    for name, values in alike["predictors"].items():
        found = made["predictors"][name]["test"]
        assert abs(found["accuracy"] - values["test"]["accuracy"]) <= ACCURACY_TOLERANCE, (
            name,
            found,
            values,
        )


def test_a_worker_process_killed_while_distilling(submit, unharmed, times):
    began = time.monotonic()
    job = submit("worker-killed")
    job.wait_for_checkpoint("student", 2)
    host = job.cluster.hosts[job.training_hosts()[0]]
    os.kill(host.processes("RayTrainWorker")[0], signal.SIGKILL)
    noticed, continued = says(job, "are started again"), goes_on(job, "student")
    assert job.finish() == unharmed
    times.note("1 a worker process is killed", noticed, noticed + continued, time.monotonic() - began)


@pytest.mark.parametrize(("stage", "epoch"), [("teacher-0", 2), ("student", 2)])
def test_a_worker_host_loses_power(submit, unharmed, times, stage, epoch):
    began = time.monotonic()
    job = submit(f"host-lost-{stage}")
    job.wait_for_checkpoint(stage, epoch)
    job.cluster.hosts[job.training_hosts()[-1]].pull_the_plug()
    noticed, continued = says(job, "has been marked dead"), says(job, f"{stage}: continues after epoch")
    assert job.finish() == unharmed
    times.note(
        f"2 a worker host loses power ({stage})", noticed, noticed + continued, time.monotonic() - began
    )


def test_a_spot_host_is_given_notice(submit, unharmed, times):
    began = time.monotonic()
    job = submit("spot", "student.training.checkpoint_every=24")
    job.wait_for_checkpoint("control", 2)
    says(job, "student: starts")
    host = job.cluster.hosts[job.training_hosts()[-1]]
    drained = host.call(
        *(
            str(BIN / "ray"),
            "drain-node",
            "--address",
            f"{HEAD}:6379",
            "--reason",
            "DRAIN_NODE_REASON_PREEMPTION",
        ),
        *("--reason-message", "spot interruption notice", "--deadline-remaining-seconds", "110"),
    )
    assert drained.returncode == 0, drained.stderr
    noticed = job.wait_for_checkpoint("student", 1)
    assert 0 < job.newest_epoch("student") < 24
    wait_until(lambda: not host.processes("RayTrainWorker"), "the worker to leave", 60)
    host.pull_the_plug()
    continued = says(job, "student: continues after epoch")
    assert job.finish() == unharmed
    times.note("a spot host is given notice", noticed, noticed + continued, time.monotonic() - began)


def test_the_driver_killed_and_the_run_submitted_again(submit, unharmed, times):
    began = time.monotonic()
    job = submit("driver-killed")
    job.wait_for_checkpoint("student", 2)
    os.kill(job.driver(), signal.SIGKILL)
    killed = time.monotonic()
    assert job.wait(120) == 1
    assert "the same command continues" in job.log
    noticed = time.monotonic() - killed
    job.submit()
    says(job, "student: continues after epoch")
    continued = time.monotonic() - killed
    assert job.finish() == unharmed
    times.note("4 the driver is killed, resubmitted", noticed, continued, time.monotonic() - began)


def test_the_head_host_loses_power_and_a_new_one_takes_its_place(submit, unharmed, times):
    began = time.monotonic()
    job = submit("head-lost")
    job.wait_for_checkpoint("student", 2)
    cluster = job.cluster
    cluster.hosts["head"].pull_the_plug()
    lost = time.monotonic()
    for name in WORKERS:
        cluster.hosts[name].destroy()
    cluster.start_head()
    for name in WORKERS:
        cluster.start_worker(name)
    assert job.wait(240) == 1
    noticed = time.monotonic() - lost
    assert "submit the same run again" in job.log
    job.submit()
    says(job, "student: continues after epoch", 300)
    continued = time.monotonic() - lost
    assert job.finish() == unharmed
    times.note("5 the head loses power, new head, resubmitted", noticed, continued, time.monotonic() - began)


def test_s3_stops_for_a_minute_while_a_checkpoint_is_written(submit, unharmed, times):
    began = time.monotonic()
    job = submit("s3-away")
    job.wait_for_checkpoint("student", 2)
    store = job.cluster.store
    store.stop()
    time.sleep(60)
    # A checkpoint is not on its way in the background: the training waits in the middle of it.
    sockets = store.host.call("ss", "--tcp", "--numeric", "--no-header", "sport", "=", ":9000").stdout
    assert any(int(line.split()[1]) for line in sockets.splitlines()), f"nothing was asked of S3:\n{sockets}"
    store.go_on()
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    times.note("6 S3 does not answer for 60 s", 0, 60 + continued, time.monotonic() - began)


def test_mlflow_and_its_database_die_for_a_minute(submit, unharmed, times):
    began = time.monotonic()
    job = submit("mlflow-away")
    job.wait_for_checkpoint("control", 2)
    job.cluster.tracking.kill()
    stopped = time.monotonic()
    continued = goes_on(job, "control")
    time.sleep(max(0, 60 - (time.monotonic() - stopped)))
    job.cluster.tracking.start()
    assert job.finish() == unharmed
    times.note("7a MLflow and PostgreSQL die for 60 s", 0, continued, time.monotonic() - began)


def test_mlflow_dies_until_after_the_run_and_the_student_is_registered_later(submit, unharmed, times):
    began = time.monotonic()
    job = submit("mlflow-gone", "tracking.patience_s=10")
    job.wait_for_checkpoint("control", 2)
    job.cluster.tracking.kill()
    continued = goes_on(job, "control")
    assert job.wait() == 1
    assert "ekd register mlflow-gone --storage s3://bucket/ekd" in job.log
    assert job.weights() == unharmed["weights"]
    job.cluster.tracking.start()
    done = job.cluster.desk.call(
        *(str(BIN / "ekd"), "register", "mlflow-gone", "--storage", "s3://bucket/ekd"),
        *("--endpoint-url", job.cluster.store.url),
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("models:/ekd-matrix/")
    assert job.result() == unharmed
    times.note("7b MLflow dies until after the run, ekd register", 0, continued, time.monotonic() - began)


def test_a_workers_cable_is_cut_and_mended(submit, unharmed, times):
    began = time.monotonic()
    job = submit("cable-cut")
    job.wait_for_checkpoint("student", 2)
    name = job.training_hosts()[-1]
    host = job.cluster.hosts[name]
    host.unplug()
    noticed = says(job, "has been marked dead")
    host.plug_in()
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    times.note(
        "8 a worker's cable is cut, then mended", noticed, noticed + continued, time.monotonic() - began
    )


def test_a_workers_disk_fills(submit, unharmed, times):
    began = time.monotonic()
    job = submit("disk-full")
    job.wait_for_checkpoint("student", 2)
    for name in set(job.training_hosts()) - {"head"}:  # Ray's own head does not survive a full disk
        job.cluster.hosts[name].fill_disk()
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    times.note("9 the disks of the workers fill", 0, continued, time.monotonic() - began)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_the_newest_checkpoint_is_damaged_in_s3(submit, unharmed, times, damage):
    began = time.monotonic()
    job = submit(f"checkpoint-{damage}")
    job.wait_for_checkpoint("student", 4)
    os.kill(job.driver(), signal.SIGKILL)
    killed = time.monotonic()
    job.wait(120)
    key = f"ekd/{job.run_id}/checkpoints/student/epoch-{job.newest_epoch('student'):05d}.safetensors"
    data = bytearray(job.cluster.store.read(key))
    data[len(data) // 2] ^= 0x10
    job.cluster.store.write(key, bytes(data) if damage == "flipped" else bytes(data[: len(data) // 2]))
    job.submit()
    assert job.finish() == unharmed
    times.note(
        f"10 the newest checkpoint is {damage}", 0, time.monotonic() - killed, time.monotonic() - began
    )


def test_two_drivers_start_the_same_run(submit, unharmed, times):
    began = time.monotonic()
    job = submit("two-drivers")
    says(job, "teacher-0: starts", 300)  # early: who comes when the run is over finds nothing to do
    asked = time.monotonic()
    cluster = job.cluster
    command = (str(BIN / "ekd"), "run", *job.command())

    def run_on(name):
        address = f"{cluster.hosts['head'].address}:6379"
        return cluster.hosts[name].call(*command, RAY_ADDRESS=address, timeout_s=120)

    with ThreadPoolExecutor() as pool:  # one on the head, beside the owner, and one on another host
        seconds = list(pool.map(run_on, ("head", "worker1")))
    for second in seconds:
        assert second.returncode == 1, second.stderr
        assert "this run is being run by process" in second.stderr
        assert "on head" in second.stderr
    refused = time.monotonic() - asked
    third = Job(cluster, "two-drivers").submit()
    says(third, "is running already; attached to it", 60)
    third.close()
    assert job.finish() == unharmed
    times.note("11 two more drivers, and a second submission", refused, 0, time.monotonic() - began)


def test_credentials_are_rotated_while_the_run_trains(submit, unharmed, times):
    began = time.monotonic()
    job = submit("rotated")
    job.wait_for_checkpoint("student", 2)
    cluster = job.cluster
    with cluster.store.new_keys() as keys:
        expired = time.monotonic()
        time.sleep(5)
        for name in ("head", *WORKERS):
            cluster.write_keys(cluster.hosts[name].folder, *keys)
        goes_on(job, "student")
        continued = time.monotonic() - expired
        assert job.finish() == unharmed
    for name in ("head", *WORKERS):
        cluster.write_keys(cluster.hosts[name].folder, KEY_ID, SECRET)
    times.note("12 credentials expire and are renewed", 0, continued, time.monotonic() - began)
