"""`ekd submit`: the main job on a cluster, through Ray's job API."""

import argparse
import os
from functools import partial

from orchestrator.cli.checks import named_experiment
from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import find_experiment, packaged_experiments
from orchestrator.planning.preflight import check_run_id
from orchestrator.planning.submission import why_not_elsewhere
from orchestrator.registry import code_version
from orchestrator.runtime.jobs_api import Submission, follow, start

_say = partial(print, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Submit the run, and follow its log unless told otherwise; the exit status."""
    address = arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ExperimentError("--address: which cluster? Give its dashboard's address, http://HEAD:8265")
    experiment = named_experiment(arguments)
    if problem := why_not_elsewhere(experiment):
        raise ExperimentError(problem)
    run_id = check_run_id(arguments.run_id or experiment.default_run_id())
    packaged = arguments.experiment in packaged_experiments()
    own = None if packaged else find_experiment(arguments.experiment)
    words = ["run", own.name if own else arguments.experiment, "--run-id", run_id]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    words += ["--smoke"] if arguments.smoke else []
    submission = Submission(run_id, ["python", "-m", "orchestrator", *words], own, code_version())
    job = start(submission, address, _say)
    if arguments.wait:
        return follow(job, address, _say)
    _say(f"its log: ray job logs --follow --address {address} {job}")
    return 0
