"""Whatever breaks, the run ends with the same registered result, once, and in bounded time."""

import json
import math
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job import EXPERIMENT, Job
from ray_hosts import API, BIN, HEAD, S3, WORKERS
from servers import KEY_ID, SECRET, wait_until
from times import TIMES, Watch

pytestmark = pytest.mark.timeout(1200)


LEARNT = 0.4
"""An accuracy that each network of a whole run reaches with a wide margin; guessing reaches 0.1.

With 1 to 3 workers, other seeds and up to 400 epochs it was 0.66 to 0.98."""


def fault(name, *, always=False):
    """The mark of a fault test: its line in the table, and whether every CI run has it."""
    return pytest.mark.fault(name, always=always)


@pytest.fixture(scope="module")
def unharmed(cluster, request):
    """The run that nothing happens to."""
    watch = Watch(request.config.stash[TIMES], "none", always=True)
    made = Job(cluster, "unharmed").submit().finish()
    watch.note()
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
        whole.store.remove("ekd/networks/")  # those of the runs before: this one is to train its own
        jobs.append(Job(whole, run_id, *settings))
        return jobs[-1].submit()

    yield submit_it
    for job in jobs:
        job.clear_away()


def goes_on(job, name):
    """Seconds until `name` has a newer checkpoint than now, or is done."""
    before = job.newest_epoch(name)
    done = f"ekd/{job.run_id}/networks/{name}.json"
    return wait_until(
        lambda: job.reached(name) > before or done in job.cluster.store.keys(done),
        f"{name} going on after epoch {before}",
        log=job,
    )


def trains_on(job, hosts):
    """Whether as many hosts train; fails if the run is over."""
    assert job.process.poll() is None, f"the run was over before it had {hosts} hosts:\n{job.log}"
    return len(job.training_hosts()) == hosts


def hosts_of(job):
    """The hosts on which workers train."""
    return [job.cluster.hosts[name] for name in job.training_hosts()]


def asks_for_s3(host):
    """Whether a process of this host waits for a connection to S3."""
    sockets = host.call("ss", "--tcp", "--numeric", "--no-header", "state", "syn-sent", f"dst {S3}")
    assert sockets.returncode == 0, sockets.stderr
    return bool(sockets.stdout.strip())


def says(job, text):
    """Seconds until the run's log holds `text`."""

    def said() -> bool:
        assert text in job.log or job.process.poll() is None, f"{text!r} was not said:\n{job.log}"
        return text in job.log

    return wait_until(said, f"{text!r} in the log", log=job)


@fault("none", always=True)
def test_the_unharmed_run_keeps_everything_in_s3_and_sends_no_artifact_through_the_server(cluster, unharmed):
    keys = cluster.store.keys("ekd/unharmed/")
    for name in ("manifest.json", "experiment.json", "summary.json", "networks/averaged.safetensors"):
        assert f"ekd/unharmed/{name}" in keys
    assert any(key.endswith("model.pt2") or "/data/" in key for key in cluster.store.keys("ekd/mlartifacts/"))
    assert not cluster.tracking.proxied.exists() or not any(cluster.tracking.proxied.iterdir())


@fault("none, the finished run once more")
def test_plain_ray_job_submit_of_the_finished_run_finds_nothing_to_do(whole, unharmed, watch):
    done = whole.desk.call(
        *(str(BIN / "ray"), "job", "submit", "--address", API, "--working-dir", str(EXPERIMENT.parent)),
        *("--", "ekd", "run", EXPERIMENT.name, "--run-id", "unharmed"),
        timeout_s=300,
    )
    assert "nothing to do" in done.stdout
    assert "models:/ekd-matrix/1" in done.stdout
    watch.note()


@fault("none, a search")
def test_a_submitted_search_trains_its_trials_on_every_host(whole, unharmed, watch):
    """One worker a trial, three CPUs on three hosts: each has its copy of teachers and data."""
    done = whole.desk.call(
        *(str(BIN / "ekd"), "submit", str(EXPERIMENT), "--address", API.removeprefix("http://")),
        *("--space", str(EXPERIMENT.parent / "small_space.yaml"), "--searcher", "grid"),
        *("--run-id", "searched", "--set", "cluster.workers_per_run=1", "--set", "cluster.runs_at_once=3"),
        timeout_s=600,
    )
    assert re.search(r"^models:/ekd-matrix/\d+$", done.stdout, re.MULTILINE), done.stdout[-3000:]
    trials = [f"ekd/searched/trials/trial-{number:04d}/trial.json" for number in range(4)]
    assert set(trials) <= set(whole.store.keys("ekd/searched/trials/"))
    assert {json.loads(whole.store.read(key))["status"] for key in trials} <= {"completed", "pruned"}
    watch.note()


@fault("a host is lost and comes back, elastic")
def test_an_elastic_run_shrinks_with_a_lost_host_and_grows_when_it_comes_back(submit, unharmed, watch):
    job = submit(
        "elastic",
        "cluster.workers_per_run=[1, 3]",
        "cluster.resize_every_s=10",
        "student.training.epochs=120",
        "student.training.checkpoint_every=5",
    )
    job.wait_for_checkpoint("student", 5)
    assert len(job.training_hosts()) == 3
    job.cluster.hosts["worker2"].pull_the_plug()
    noticed, continued = says(job, "has been marked dead"), says(job, "student: continues after epoch")
    assert len(job.training_hosts()) == 2
    # The two are slow until the third trains too: on a fast machine the run would be over first.
    with job.training_slowed():
        job.cluster.start_worker("worker2")
        wait_until(lambda: trains_on(job, 3), "three workers again", log=job)
    made = job.finish()
    # Batch statistics are of a worker's share: with other numbers of workers the bits are others, and some
    # hundred updates later two runs are as far apart as two seeds. What holds for any number of workers:
    # every epoch was trained and logged once, and each network has learnt.
    every = list(range(2, 121, 2))  # of the control too, which is trained as the student is
    assert made["steps"] == {**unharmed["steps"], "control": every, "student": every}
    for name, values in made["predictors"].items():
        for split in ("validation", "test"):
            assert values[split]["accuracy"] >= LEARNT, (name, split, values[split])
            assert all(map(math.isfinite, values[split].values())), (name, split, values[split])
    watch.note(noticed, noticed + continued)


@fault("a worker process is killed", always=True)
def test_a_worker_process_killed_while_distilling(submit, unharmed, watch):
    job = submit("worker-killed")
    job.wait_for_checkpoint("student", 2)
    host = job.cluster.hosts[job.training_hosts()[0]]
    os.kill(host.processes("RayTrainWorker")[0], signal.SIGKILL)
    noticed, continued = says(job, "are started again"), goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


QUICK = ("cluster.liveness.said_after_s=10", "cluster.liveness.restart_after_s=20")
"""Settings that end what stands still sooner than by default (120 s)."""


@fault("a worker stands still")
def test_a_worker_that_stands_still_is_said_and_ended_and_training_goes_on(submit, unharmed, watch):
    job = submit("worker-stopped", *QUICK)
    job.wait_for_checkpoint("student", 2)
    host = job.cluster.hosts[job.training_hosts()[-1]]
    os.kill(host.processes("RayTrainWorker")[0], signal.SIGSTOP)
    noticed, continued = says(job, "nothing heard of worker"), says(job, "student: continues after epoch")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@fault("the job queue stands still")
def test_a_job_queue_that_stands_still_costs_a_restart_and_not_the_run(submit, unharmed, watch):
    job = submit("queue-stopped", *QUICK)
    job.wait_for_checkpoint("student", 2)
    with job.training_slowed():  # or the workers, who can do without it for a while, train all that is left
        os.kill(job.cluster.hosts["head"].processes("ray::JobQueue")[0], signal.SIGSTOP)
        noticed, continued = says(job, "the job queue (process"), says(job, "student: continues after epoch")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("student", marks=fault("a worker host loses power (student)", always=True)),
        pytest.param("teacher-0", marks=fault("a worker host loses power (teacher-0)")),
    ],
)
def test_a_worker_host_loses_power(submit, unharmed, watch, stage):
    job = submit(f"host-lost-{stage}")
    job.wait_for_checkpoint(stage, 2)
    job.cluster.hosts[job.training_hosts()[-1]].pull_the_plug()
    noticed, continued = says(job, "has been marked dead"), says(job, f"{stage}: continues after epoch")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@fault("a spot host is given notice", always=True)
def test_a_spot_host_is_given_notice(submit, unharmed, watch):
    job = submit("spot", "student.training.checkpoint_every=24")
    job.wait_for_checkpoint("control", 2)
    says(job, "student: starts")
    host = job.cluster.hosts[job.training_hosts()[-1]]
    notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot interruption notice")
    drain = (str(BIN / "ray"), "drain-node", "--address", f"{HEAD}:6379", *notice)
    with job.training_paused():  # or all is trained before the command has started
        drained = host.call(*drain, "--deadline-remaining-seconds", "110")
    assert drained.returncode == 0, drained.stderr
    noticed = job.wait_for_checkpoint("student", 0)
    assert 0 <= job.newest_epoch("student") < 24
    wait_until(lambda: not host.processes("RayTrainWorker"), "the worker to leave", log=job)
    host.pull_the_plug()
    continued = says(job, "student: continues")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("flipped", marks=fault("driver killed, newest checkpoint flipped", always=True)),
        pytest.param("truncated", marks=fault("driver killed, newest checkpoint truncated")),
    ],
)
def test_the_driver_is_killed_and_the_newest_checkpoint_damaged(submit, unharmed, watch, damage):
    job = submit(f"driver-killed-{damage}")
    job.wait_for_checkpoint("student", 4)
    os.kill(job.driver(), signal.SIGKILL)
    killed = time.monotonic()
    assert job.wait(300) == 1
    assert "the same command continues" in job.log
    noticed = time.monotonic() - killed
    newest = job.newest_epoch("student")
    key = f"ekd/{job.run_id}/checkpoints/student/epoch-{newest:05d}.safetensors"
    data = bytearray(job.cluster.store.read(key))
    data[len(data) // 2] ^= 0x10
    job.cluster.store.write(key, bytes(data) if damage == "flipped" else bytes(data[: len(data) // 2]))
    job.submit()
    says(job, f"student: continues after epoch {newest - 2}")
    continued = time.monotonic() - killed
    assert job.finish() == unharmed
    watch.note(noticed, continued)


@fault("the head loses power, new head, resubmitted", always=True)
def test_the_head_host_loses_power_and_a_new_one_takes_its_place(submit, unharmed, watch):
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
    assert job.wait(300) == 1
    noticed = time.monotonic() - lost
    assert "submit the same run again" in job.log
    job.submit()
    says(job, "student: continues after epoch")
    continued = time.monotonic() - lost
    assert job.finish() == unharmed
    watch.note(noticed, continued)


@fault("S3 is away for 25 s, MLflow and PostgreSQL longer", always=True)
def test_s3_and_mlflow_are_away_while_a_checkpoint_is_written(submit, unharmed, watch):
    job = submit("servers-away")
    job.wait_for_checkpoint("student", 2)
    store, tracking = job.cluster.store, job.cluster.tracking
    store.host.unplug()
    tracking.kill()
    # Training waits in the middle of a checkpoint, for longer than all attempts of one call of boto3 (15 s).
    wait_until(lambda: any(map(asks_for_s3, hosts_of(job))), "somebody who asks for S3", log=job)
    time.sleep(25)
    store.host.plug_in()
    continued = goes_on(job, "student")
    tracking.start()
    assert job.finish() == unharmed
    watch.note(0, 25 + continued)


@fault("MLflow dies until after the run, ekd register")
def test_mlflow_dies_until_after_the_run_and_the_student_is_registered_later(submit, unharmed, watch):
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
        *("--endpoint-url", job.cluster.store.url, "--tracking", job.cluster.tracking.uri),
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("models:/ekd-matrix/")
    assert job.result() == unharmed
    watch.note(0, continued)


@fault("a worker's cable is cut, then mended")
def test_a_workers_cable_is_cut_and_mended(submit, unharmed, watch):
    job = submit("cable-cut")
    job.wait_for_checkpoint("student", 2)
    name = job.training_hosts()[-1]
    host = job.cluster.hosts[name]
    host.unplug()
    noticed = says(job, "has been marked dead")
    host.plug_in()
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@fault("the disks of the workers fill")
def test_a_workers_disk_fills(submit, unharmed, watch):
    job = submit("disk-full")
    job.wait_for_checkpoint("student", 2)
    for name in set(job.training_hosts()) - {"head"}:  # Ray's own head does not survive a full disk
        job.cluster.hosts[name].fill_disk()
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(0, continued)


@fault("two more drivers, and a second submission")
def test_two_drivers_start_the_same_run(submit, unharmed, watch):
    job = submit("two-drivers")
    says(job, "teacher-0: starts")  # early: who comes when the run is over finds nothing to do
    asked = time.monotonic()
    cluster = job.cluster
    command = (str(BIN / "ekd"), "run", *job.command())

    def run_on(name):
        address = f"{cluster.hosts['head'].address}:6379"
        return cluster.hosts[name].call(*command, RAY_ADDRESS=address, timeout_s=300)

    with job.training_paused():  # or the run is over before they come
        with ThreadPoolExecutor() as pool:  # one on the head, beside the owner, and one on another host
            seconds = list(pool.map(run_on, ("head", "worker1")))
        for second in seconds:
            assert second.returncode == 1, second.stderr
            assert "this run is being run by process" in second.stderr
            assert "on head" in second.stderr
        refused = time.monotonic() - asked
        third = Job(cluster, "two-drivers").submit()
        says(third, "is running already; attached to it")
        third.close()
    assert job.finish() == unharmed
    watch.note(refused)


@fault("S3 answers every second request with SlowDown")
def test_s3_slows_its_users_down(submit, unharmed, watch):
    job = submit("throttled")
    job.wait_for_checkpoint("student", 2)
    with job.cluster.store.throttled():
        continued = goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(0, continued)


@fault("two workers lose each other, the head reaches both")
def test_two_workers_lose_each_other_while_the_head_reaches_both(submit, unharmed, watch):
    job = submit("partition", *QUICK)
    job.wait_for_checkpoint("student", 2)
    one, other = hosts_of(job)
    with one.without(other):
        noticed = says(job, "are started again")
    continued = goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(noticed, noticed + continued)


@fault("a slow link and a slow host")
def test_a_slow_link_and_a_slow_host_only_cost_time(submit, unharmed, watch):
    job = submit("slow")
    job.wait_for_checkpoint("student", 2)
    with hosts_of(job)[-1].slow_link(), job.training_slowed():
        continued = goes_on(job, "student")
    assert job.finish() == unharmed
    watch.note(0, continued)


@fault("MLflow is started again, three times")
def test_mlflow_is_started_again_and_again(submit, unharmed, watch):
    job = submit("mlflow-again")
    for name in ("teacher-1", "control", "student"):
        job.wait_for_checkpoint(name, 2)
        job.cluster.tracking.restart()
    assert job.finish() == unharmed
    watch.note()


@fault("credentials expire and are renewed")
def test_credentials_are_rotated_while_the_run_trains(submit, unharmed, watch):
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
    watch.note(0, continued)
