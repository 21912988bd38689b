"""`ekd run`: the whole main job."""

import argparse

from orchestrator.cli.checks import checked_experiment
from orchestrator.cli.results import print_results
from orchestrator.pipeline import pipeline


def run(arguments: argparse.Namespace) -> int:
    """Check the experiment, run it, and print its results; the exit status."""
    checked = checked_experiment(arguments)
    print_results(checked, pipeline.run(checked))
    return 0
