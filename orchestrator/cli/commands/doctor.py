"""`ekd doctor`: try everything that a run would use."""

import argparse

from orchestrator.cli.terminal import results_console
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.doctor import diagnose


def run(arguments: argparse.Namespace) -> int:
    """Print each finding as it is made; 2 if something is not usable."""
    experiment = load_experiment(arguments.experiment, arguments.overrides)
    healthy, console = True, results_console()
    for finding in diagnose(experiment):
        healthy = healthy and finding.ok
        mark = "ok  " if finding.ok else "FAIL"
        head = f"{mark} {finding.what:10s} {finding.seconds:6.2f} s  "
        console.say(f"{head}{finding.detail}", indent=len(head))
    return 0 if healthy else 2
