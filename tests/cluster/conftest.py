"""Clusters of real hosts: made for a module, ended with it."""

import os
import time

import hosts
import pytest
import servers
from times import TIMES


def pytest_collection_modifyitems(items):
    """Everything here takes minutes."""
    for item in items:
        if "/tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter, config):
    if (times := config.stash.get(TIMES, None)) is not None:
        terminalreporter.section("faults")
        terminalreporter.write_line(times.table())


@pytest.fixture(scope="session")
def can_have_hosts():
    """Skips where hosts, or the servers that run on them, cannot be had, or nobody asked for them."""
    if not os.environ.get("EKD_FAULT_MATRIX"):
        pytest.skip("`make faults` runs it, on hosts of its own: about 45 minutes")
    if reason := hosts.why_impossible() or servers.why_impossible():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def in_time():
    """Skips what would begin after EKD_NO_FAULT_AFTER, in seconds since 1970."""
    if time.time() > float(os.environ.get("EKD_NO_FAULT_AFTER", "inf")):
        pytest.skip("no time is left for it: EKD_NO_FAULT_AFTER")


@pytest.fixture(scope="module")
def cluster(can_have_hosts, monkeypatch_module):
    from ray_hosts import RayHosts
    from servers import KEY_ID, SECRET

    for name, value in (
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
    ):
        monkeypatch_module.setenv(name, value)
    made = RayHosts()
    yield made
    made.close()


@pytest.fixture(scope="session")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
