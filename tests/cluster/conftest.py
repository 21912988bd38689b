"""A cluster of real hosts, made for the test session; which of its tests run; what they measured."""

import os
import time
from pathlib import Path

import hosts
import pytest
import servers
from times import TIMES, Times, Watch, chosen, commit


def pytest_configure(config):
    config.stash[TIMES] = Times()


def pytest_collection_modifyitems(config, items):
    """Everything here takes minutes; EKD_FAULTS says how much of it runs."""
    mine = [
        item for item in items if "/tests/cluster/" in str(item.path) and item.get_closest_marker("fault")
    ]
    for item in mine:
        item.add_marker(pytest.mark.slow)
    always = [item.name for item in mine if item.get_closest_marker("fault").kwargs.get("always")]
    others = [item.name for item in mine if item.name not in always]
    names = chosen(os.environ.get("EKD_FAULTS", "all"), always, others, commit())
    left_out = {item for item in mine if item.name not in names}
    config.hook.pytest_deselected(items=sorted(left_out, key=lambda item: item.name))
    # First those of every run: where time runs out, the others are skipped.
    rank = {item: 0 if item.name in always else 1 for item in mine}
    items[:] = sorted((item for item in items if item not in left_out), key=lambda item: rank.get(item, 0))


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    times = config.stash[TIMES]
    if not times.rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(times.text())
    page = os.environ.get("EKD_FAULTS_PAGE")
    if page and exitstatus == 0 and not terminalreporter.stats.get("skipped"):
        Path(page).write_text(times.page())


@pytest.fixture(scope="session")
def can_have_hosts():
    """Skips where hosts, or the servers that run on them, cannot be had, or nobody asked for them."""
    if not os.environ.get("EKD_FAULT_MATRIX"):
        pytest.skip("`make faults` runs it, on hosts of its own")
    if reason := hosts.why_impossible() or servers.why_impossible():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def in_time():
    """Skips what would begin after EKD_NO_FAULT_AFTER, in seconds since 1970."""
    if time.time() > float(os.environ.get("EKD_NO_FAULT_AFTER", "inf")):
        pytest.skip("no time is left for it: EKD_NO_FAULT_AFTER")


@pytest.fixture(scope="session")
def cluster(can_have_hosts):
    from ray_hosts import RayHosts
    from servers import KEY_ID, SECRET

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
        ):
            patch.setenv(name, value)
        made = RayHosts()
        yield made
        made.close()


@pytest.fixture
def watch(request):
    """Times this test, without what others share with it."""
    marker = request.node.get_closest_marker("fault")
    return Watch(request.config.stash[TIMES], marker.args[0], marker.kwargs.get("always", False))
