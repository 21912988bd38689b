"""`make soak`: one run after the other on the cluster of the fault tests, with faults at random.

Each must end with what the run that nothing happened to made: the same weights, metrics and history, one
MLflow run, one version, and nothing left over. The same seed draws the same faults in the same order; what
they meet depends on the machine.
"""

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random, randrange

import hosts
import servers
from faults import FAULTS
from job import Job
from ray_hosts import RayHosts
from servers import wait_until
from times import commit

SETTINGS = ("cluster.liveness.said_after_s=10", "cluster.liveness.restart_after_s=20")
"""Silence is ended sooner than by default (120 s), so that a run has more of everything."""
SUBMISSIONS = 30
"""More for one run is in vain."""
AS_IT_SHOULD = "as unharmed"
LEFT_OVER = ("ray::", "-m orchestrator run", "cluster_leftovers")
"""What belongs to a run, by its command line; of Ray's own ..."""
OF_THE_CLUSTER = (
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::IDLE",
    "ray::_AutoscalingCoordinatorActor",
)
"""... these stay, or come and go by themselves: `cluster/README.md` says of each why."""


PAGE = """# Soak

`make soak`: runs one after the other on the cluster of the [fault tests](faults.md), with faults at random.
Each is to end with what the unharmed run made: the same weights, metrics and history, one MLflow run, one
version, and nothing left over. A run is submitted again whenever its driver ended.

Last at {commit}, {day}: {head}

| run | took | submitted | faults | made |
|---|---|---|---|---|
{rows}
"""


def main() -> int:
    """Runs until the minutes are over; the exit status says whether all were as they should be."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="no run begins later (default: 10)")
    parser.add_argument(
        "--mean-s", type=float, default=30, help="mean seconds between faults, at random (default: 30)"
    )
    parser.add_argument("--seed", type=int, default=randrange(10**6), help="of the faults (default: any)")
    parser.add_argument("--page", type=Path, help="where a page of what happened is written")
    arguments = parser.parse_args()
    if reason := hosts.why_impossible() or servers.why_impossible():
        parser.error(reason)
    print(f"seed {arguments.seed}, a fault every {arguments.mean_s:g} s on average", flush=True)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": servers.KEY_ID,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    }
    cluster, began = RayHosts(), time.monotonic()
    try:
        runs = _soak(cluster, arguments.minutes * 60, arguments.mean_s, Random(arguments.seed))
    finally:
        cluster.close()
    total = sum((run.faults for run in runs), Counter[str]())
    good = sum(run.made == AS_IT_SHOULD for run in runs)
    head = (
        f"{len(runs)} runs, {total.total()} faults (seed {arguments.seed}, {arguments.mean_s:g} s apart on "
        f"average) in {(time.monotonic() - began) / 60:.0f} minutes; {good} runs made what they should."
    )
    print(head)
    for name, count in total.most_common():
        print(f"{count:5}  {name}")
    if arguments.page:
        rows = "\n".join(run.row() for run in runs)
        day = datetime.now(UTC).date().isoformat()
        arguments.page.write_text(PAGE.format(commit=commit()[:10], day=day, head=head, rows=rows))
    return 0 if good == len(runs) else 1


@dataclass
class Run:
    """One of the soak."""

    name: str
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    submissions: int = 0
    made: str = ""

    def row(self) -> str:
        """Of the page's table."""
        faults = ", ".join(f"{name} ({count})" for name, count in sorted(self.faults.items())) or "none"
        return f"| {self.name} | {self.seconds:.0f} s | {self.submissions} | {faults} | {self.made} |"


def _soak(cluster: RayHosts, seconds: float, mean_s: float, draw: Random) -> list[Run]:
    began = time.monotonic()
    unharmed = Job(cluster, "unharmed").submit().finish()
    print(f"unharmed: {time.monotonic() - began:.0f} s", flush=True)
    runs: list[Run] = []
    while time.monotonic() - began < seconds:
        cluster.store.remove("ekd/networks/")  # of the run before: this one trains its own
        run = Run(f"soak-{len(runs) + 1}")
        runs.append(run)
        job, run_began = Job(cluster, run.name, *SETTINGS), time.monotonic()
        try:
            _to_its_end(job, mean_s, draw, run.faults)
            run.made = AS_IT_SHOULD if job.result() == unharmed else "OTHER"
            wait_until(lambda: not left_over(cluster), "an end of everything that belongs to the run")
        except (AssertionError, TimeoutError) as error:
            run.made = f"FAILED: {str(error).splitlines()[0]}"
            print(f"{error}\nleft over: {left_over(cluster)}\n{job.log[-5000:]}", flush=True)
        run.seconds, run.submissions = time.monotonic() - run_began, job.submissions
        print(run.row(), flush=True)
    return runs


def _to_its_end(job: Job, mean_s: float, draw: Random, happened: Counter[str]) -> None:
    while job.submissions < SUBMISSIONS:
        job.cluster.make_whole()
        job.submit()
        due = time.monotonic() + draw.expovariate(1 / mean_s)
        while (status := job.process.poll()) is None:
            if time.monotonic() < due:
                time.sleep(0.2)
                continue
            fault = draw.choice(FAULTS)
            happened[fault.__name__.replace("_", " ")] += 1
            fault(job, draw)
            job.cluster.make_whole()
            due = time.monotonic() + draw.expovariate(1 / mean_s)
        if status == 0:
            return
        last = job.log.rstrip().splitlines()[-1:]
        print(f"  {job.run_id} ended with {status}: {' '.join(last)[:200]}", flush=True)
    raise AssertionError(f"it has not ended after {job.submissions} submissions")


def left_over(cluster: RayHosts) -> list[str]:
    """What of a run is still there, and on which host."""
    return [
        f"{what} on {name}"
        for name, host in cluster.hosts.items()
        for what in LEFT_OVER
        if set(host.processes(what)).difference(*map(host.processes, OF_THE_CLUSTER))
    ]


if __name__ == "__main__":
    sys.exit(main())
