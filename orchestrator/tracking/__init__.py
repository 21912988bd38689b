"""Tracking: the one door to MLflow's runs. Importing it imports neither mlflow nor torch."""

from orchestrator.tracking.address import redacted, resolve_tracking_uri, runs_page, ui_command
from orchestrator.tracking.preflight import TrackingError, check_tracking
from orchestrator.tracking.run_state import PARENT, RunStatus
from orchestrator.tracking.tracker import Tracker

__all__ = [
    "PARENT",
    "RunStatus",
    "Tracker",
    "TrackingError",
    "check_tracking",
    "redacted",
    "resolve_tracking_uri",
    "runs_page",
    "ui_command",
]
