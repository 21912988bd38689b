"""`ekd register`: the student's version and all of a run in MLflow, whatever MLflow has of them."""

import argparse

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.results import print_results
from orchestrator.cli.stored_runs import named_storage, own_tracking, run_storage, with_own_places
from orchestrator.experiment.schema import build_experiment
from orchestrator.experiment.yaml_tree import apply_overrides
from orchestrator.pipeline import pipeline
from orchestrator.pipeline.cleanup import stored_experiment
from orchestrator.planning.capacity import just_enough
from orchestrator.planning.preflight import check


def run(arguments: argparse.Namespace) -> int:
    """Run the stages after the evaluation, done or not, and print the results; the exit status."""
    with nothing_started():
        begun = stored_experiment(run_storage(named_storage(arguments), arguments.run_id), arguments.run_id)
    tree = with_own_places(begun, arguments).resolved()
    apply_overrides(tree, arguments.overrides)
    if not any(override.startswith("tracking.uri=") for override in arguments.overrides):
        tree["tracking"]["uri"] = own_tracking(begun.tracking.uri, arguments)
    experiment = build_experiment(tree)
    with nothing_started():
        checked = check(experiment, arguments.run_id, capacity=just_enough(experiment.cluster))
    print_results(checked, pipeline.run(checked, again=("register", "report")))
    return 0
