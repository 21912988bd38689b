"""`ekd register`: the student's version and all of a run in MLflow, whatever MLflow has of them."""

import argparse

from orchestrator.cli.checks import check_experiment, nothing_started
from orchestrator.cli.results import print_results
from orchestrator.cli.stored_runs import named_storage, run_storage
from orchestrator.experiment.schema import apply_overrides, build_experiment
from orchestrator.pipeline import pipeline
from orchestrator.pipeline.cleanup import stored_experiment


def run(arguments: argparse.Namespace) -> int:
    """Run the stages after the evaluation, done or not, and print the results; the exit status."""
    with nothing_started():
        begun = stored_experiment(run_storage(named_storage(arguments), arguments.run_id), arguments.run_id)
    tree = begun.resolved()
    tree["storage"] |= {"uri": arguments.storage, "endpoint_url": arguments.endpoint_url}
    apply_overrides(tree, arguments.overrides)
    checked = check_experiment(build_experiment(tree), arguments.run_id, smoke=False)
    print_results(checked, pipeline.run(checked, again=("register", "report")))
    return 0
