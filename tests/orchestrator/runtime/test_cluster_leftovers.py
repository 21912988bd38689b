"""What a killed run leaves on a cluster that goes on: real processes in place of Ray's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.runtime.cluster_leftovers import TITLE, end_cleaners
from orchestrator.runtime.leftovers import afterwards

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")


@pytest.fixture
def actor():
    """A process with the title of an actor of Ray's, and the job that its raylet notes for it."""
    begun = []

    def begin(title: str, job: str):
        command = ["bash", "-c", f"echo; exec -a {title} sleep 600"]
        variables = os.environ | {"RAY_JOB_ID": job}
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE)
        begun.append(process)
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(title.encode()):
            time.sleep(0.02)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def test_the_cleaner_of_the_killed_job_is_ended_and_nothing_else(actor):
    ours = actor(TITLE.decode(), "02000000")
    others = [actor(TITLE.decode(), "03000000"), actor("ray::_AutoscalingCoordinatorActor", "02000000")]
    assert end_cleaners("02000000", raylet=1) == []  # of another cluster on the machine
    assert end_cleaners("02000000", raylet=os.getpid()) == [ours.pid]
    assert ours.wait(60) == -9
    assert [other.poll() for other in others] == [None, None]


def test_a_command_runs_once_its_driver_s_process_group_is_killed_and_not_before(tmp_path):
    """And it imports what the driver could."""
    (tmp_path / "module_of_the_driver.py").write_text("import sys\nopen(sys.argv[1], 'w').write('ran')\n")
    program = (
        "import sys, time; from orchestrator.runtime.leftovers import afterwards\n"
        "sys.path.append(sys.argv[1])\n"
        "command = [sys.executable, '-m', 'module_of_the_driver', sys.argv[1] + '/ran']\n"
        "print(afterwards(command).pid, flush=True); time.sleep(600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, process_group=0
    )
    watching = int(driver.stdout.readline())
    assert not (tmp_path / "ran").exists()
    os.killpg(driver.pid, 9)
    driver.communicate()
    while os.path.exists(f"/proc/{watching}/fd/0"):
        time.sleep(0.02)
    assert (tmp_path / "ran").read_text() == "ran"


def test_who_leaves_in_order_may_kill_what_waits_and_nothing_runs(tmp_path):
    waiting = afterwards([sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])
    waiting.kill()
    waiting.communicate()
    assert not (tmp_path / "ran").exists()
