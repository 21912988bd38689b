"""Tracking: the one door to MLflow's runs. Importing it imports neither mlflow nor torch."""

from orchestrator.tracking.address import redacted, resolve_tracking_uri, ui_command
from orchestrator.tracking.preflight import TrackingError, check_tracking
from orchestrator.tracking.tracker import RunStatus, Tracker

__all__ = [
    "RunStatus",
    "Tracker",
    "TrackingError",
    "check_tracking",
    "redacted",
    "resolve_tracking_uri",
    "ui_command",
]
