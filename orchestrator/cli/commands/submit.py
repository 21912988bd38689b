"""`ekd submit`: the main job or a search on a cluster, through Ray's job API."""

import argparse
import os
from pathlib import Path

from ekd_train.own_code import travelling
from orchestrator.cli.checks import named_experiment, requested_search
from orchestrator.cli.search_options import check_no_search, search_options, search_words
from orchestrator.errors import ExperimentError
from orchestrator.experiment.packaged import find_experiment, packaged_experiments
from orchestrator.experiment.redaction import visible
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.planning.preflight import check_run_id
from orchestrator.planning.submission import why_not_elsewhere
from orchestrator.registry.provenance import code_version
from orchestrator.runtime.address import dashboard_url, exposed_token
from orchestrator.runtime.jobs_api import Submission, follow, start
from orchestrator.tuning.space import packaged_spaces


def _say(text: str) -> None:
    """Print what a cluster may have written: its job's message, its log."""
    print(visible(text), flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Submit the run, and follow its log unless told otherwise; the exit status."""
    address = arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ExperimentError("--address: which cluster? Give its dashboard's address, http://HEAD:8265")
    address = dashboard_url(address)
    experiment = named_experiment(arguments)
    files: dict[str, Path] = {}
    named = arguments.experiment
    if named not in packaged_experiments():
        own = find_experiment(named)
        named, files[own.name] = own.name, own
    if arguments.space is None:
        check_no_search(arguments)
        words, run_id = ["run", named], experiment.default_run_id()
    else:
        request, experiment = requested_search(experiment, **search_options(arguments))
        space = arguments.space
        if space not in packaged_spaces():  # in a folder of its own: it may be called as the experiment is
            space = f"space/{Path(arguments.space).name}"
            files[space] = Path(arguments.space)
        words = ["tune", named, "--space", space, *search_words(arguments)]
        run_id = request.default_run_id(experiment)
    for module in experiment.code:
        files |= travelling(module)
    if problem := why_not_elsewhere(experiment):
        raise ExperimentError(problem)
    words += [word for override in arguments.overrides for word in ("--set", override)]
    words += ["--smoke"] if arguments.smoke else []
    if exposed := exposed_token(address):
        PlainConsole(stderr=True).say(f"WARNING: {exposed}")  # it is the user's own word that names the host
    submission = Submission(check_run_id(arguments.run_id or run_id), words, files, code_version())
    job = start(submission, address, _say)
    if arguments.wait:
        return follow(job, address, _say)
    _say(f"its log: ray job logs --follow --address {address} {job}")
    return 0
