"""`python -m orchestrator` is `ekd`."""

import sys

from orchestrator.cli import main

sys.exit(main())
