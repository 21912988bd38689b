"""The error of an input that cannot be run."""

from __future__ import annotations


class ExperimentError(ValueError):
    """The experiment as written cannot be run; the message says which key, what is wrong, what to do."""
