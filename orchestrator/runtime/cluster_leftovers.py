"""What a killed run leaves on a cluster that goes on: ended by a process that outlives the run.

Of Ray 2.60's parts of a training two are detached, that is, do not end with their driver. The
`PlacementGroupCleaner` is the training's own: it ends once it sees that the training's controller is dead,
for which it asks the dashboard; where a cluster has none (`--include-dashboard=false`) it asks for ever. The
`_AutoscalingCoordinatorActor` is the cluster's, one for all trainings and data sets, which hold on to it.

Run as a program, once the driver has ended, this module ends the first. It is run and not imported by whoever
shares it with a cluster: what is defined in a program is sent along with a task.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ray

from orchestrator.runtime.leftovers import afterwards

HEAD = "node:__internal_head__"
"""A resource that the head alone has, as `ray.cluster_resources()` shows it: cleaners are there."""

LIMIT_S = 120
"""A cluster that does not answer in this time may keep what it has."""

TITLE = b"ray::PlacementGroupCleaner"


def guard_cluster(address: str | None) -> "subprocess.Popen[bytes]":
    """A process that ends what is left of this driver's trainings, however this one has ended.

    `address`: as `ray.init` had it, which is connected. Whoever leaves in order kills it.
    """
    job = ray.get_runtime_context().get_job_id()
    return afterwards([sys.executable, "-m", __name__, job, *([address] if address else [])])


def end_cleaners(job: str, raylet: int) -> list[int]:
    """End the cleaners of `job` that are the children of `raylet`: their ids.

    Another cluster of this machine may have a job of the same number.
    """
    ended = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if not (process / "cmdline").read_bytes().startswith(TITLE):
                continue
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (process / "environ").read_bytes().split(b"\0")
            if parent == raylet and f"RAY_JOB_ID={job}".encode() in variables:
                os.kill(int(process.name), signal.SIGKILL)
                ended.append(int(process.name))
    return ended


def main(job: str, address: str | None = None) -> None:
    """Have the head end what is left of `job`."""
    signal.alarm(LIMIT_S)
    # Of a submitted job: its runtime environment, which may be gone with it, and is not needed.
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    on_head = ray.remote(lambda: end_cleaners(job, os.getppid()))
    ray.get(on_head.options(num_cpus=0, resources={HEAD: 0.001}).remote())


if __name__ == "__main__":
    main(*sys.argv[1:])
