"""The control plane: what happens, in what order, and what is kept.

From Python, the commands are functions: `from orchestrator import load_experiment, run, tune`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import load_experiment, run, tune

__all__ = ["load_experiment", "run", "tune"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: `ekd --help` passes through here too."""
    if name in __all__:
        return getattr(import_module("orchestrator.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
