"""A Ray that somebody else has started on the machine: joined as Ray itself would, named, or passed over."""

import os
import signal
from types import SimpleNamespace

import pytest
from hosts import Host
from ray_hosts import BIN
from servers import end, wait_until
from soak import left_over

pytestmark = pytest.mark.timeout(1800)

RAY = ("gcs_server", "raylet/raylet")


@pytest.fixture
def laptop(cluster):
    """A machine of its own, beside the cluster."""
    host = cluster.another_host("laptop", "10.77.0.30")
    yield host
    host.destroy()


def start(host: Host, *options: str, **variables: str) -> None:
    done = host.call(
        *(str(BIN / "ray"), "start", "--head", "--num-cpus=2", "--object-store-memory=100000000"),
        *("--disable-usage-stats", f"--node-ip-address={host.address}", *options),
        **variables,
    )
    assert done.returncode == 0, done.stderr


def plan(host: Host, **variables: str):
    done = host.call(
        *(str(BIN / "ekd"), "plan", "digits", "--smoke", "--set", f"storage.uri={host.folder}/runs"),
        timeout_s=300,
        **variables,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.fault("a Ray of somebody else's on the machine")
def test_a_ray_of_somebody_elses_is_joined_with_or_without_a_token_and_named_where_it_is_stopped_or_dead(
    laptop, watch
):
    no_token = {"RAY_AUTH_MODE": "disabled"}
    start(laptop, **no_token)
    for variables in (no_token, no_token | {"RAY_ADDRESS": "auto"}):
        status, shown = plan(laptop, **variables)
        assert status == 0, shown
        assert f"{laptop.address}:6379" in shown or "auto: 1 node" in shown, shown
    done = laptop.call(
        *(str(BIN / "ekd"), "run", "digits", "--smoke", "--run-id", "joined"),
        *("--set", f"storage.uri={laptop.folder}/runs"),
        timeout_s=600,
        **no_token,
    )
    assert done.returncode == 0, done.stderr
    assert f"Ray: {laptop.address}:6379" in done.stderr, done.stderr

    stopped = [pid for name in RAY for pid in laptop.processes(name)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    status, shown = plan(laptop, **no_token, RAY_ADDRESS="auto")
    assert status != 0
    assert "nothing answers there" in shown, shown
    status, shown = plan(laptop, **no_token)  # nobody named it: it is passed over
    assert status == 0, shown
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    status, shown = plan(laptop, **no_token, RAY_ADDRESS="auto")
    assert status != 0
    assert "nothing answers there" in shown, shown
    laptop.call(str(BIN / "ray"), "stop", "--force", timeout_s=120, **no_token)

    start(laptop)  # with the token of its user
    status, shown = plan(laptop)
    assert status == 0, shown
    assert f"{laptop.address}:6379" in shown, shown
    status, shown = plan(laptop, **no_token)
    assert status != 0
    assert "RAY_AUTH_MODE=token" in shown, shown
    watch.note()


@pytest.mark.fault("kill -9 of a driver on a Ray of somebody else's")
def test_of_a_killed_run_nothing_stays_on_a_cluster_that_goes_on(laptop, watch):
    """Without a dashboard, which Ray Train's cleaner would ask whether its training lives."""
    no_token = {"RAY_AUTH_MODE": "disabled"}
    start(laptop, "--include-dashboard=false", **no_token)
    driver = laptop.start(
        *(str(BIN / "ekd"), "run", "digits", "--run-id", "killed"),
        *("--set", f"storage.uri={laptop.folder}/runs", "--set", "teachers.training.epochs=1"),
        *("--set", "student.training.epochs=2000"),
        log="killed",
        **no_token,
    )
    try:
        wait_until(
            lambda: "student: epoch" in (laptop.folder / "killed").read_text(), "a student in training"
        )
        assert laptop.processes("ray::PlacementGroupCleaner")
    finally:
        end(driver)
    hosts = SimpleNamespace(hosts={"laptop": laptop})
    watch.note(wait_until(lambda: not left_over(hosts), "an end of everything that belongs to the run"))
    assert laptop.processes("raylet/raylet")
