"""`ekd tune`: search, then train the best configuration in full."""

import argparse

from orchestrator.cli.results import print_results
from orchestrator.cli.searches import checked_search
from orchestrator.pipeline import pipeline


def run(arguments: argparse.Namespace) -> int:
    """Check the experiment and the search, run both, and print their results; the exit status."""
    request, checked = checked_search(arguments)
    print_results(checked, pipeline.run(checked, request), request)
    return 0
