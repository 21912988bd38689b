"""`python -m orchestrator` is `ekd`."""

import sys

from orchestrator.cli import command

sys.exit(command())
