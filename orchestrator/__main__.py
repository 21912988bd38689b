"""`python -m orchestrator` is `ekd`."""

import sys

from orchestrator.cli.main import command

sys.exit(command())
