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
    named = {override.partition("=")[0] for override in arguments.overrides}
    tree = with_own_places(begun, arguments, named).resolved()
    apply_overrides(tree, arguments.overrides)
    if "tracking.uri" not in named:
        tree["tracking"]["uri"] = own_tracking(begun.tracking.uri, arguments)
    experiment = build_experiment(tree)
    with nothing_started():
        checked = check(experiment, arguments.run_id, capacity=just_enough(experiment.cluster), begun=True)
    print_results(checked, pipeline.run(checked, again=("register", "report")), asked=True)
    return 0
