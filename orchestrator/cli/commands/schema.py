"""`ekd schema`: the JSON schema of an experiment, for editors."""

import argparse
import json

from orchestrator.experiment.keys import experiment_schema


def run(arguments: argparse.Namespace) -> int:
    """Print it; the exit status."""
    print(json.dumps(experiment_schema(), indent=1))
    return 0
