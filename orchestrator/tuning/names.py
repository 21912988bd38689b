"""Schedulers and searchers by name; imports nothing, for the command line's sake."""

from typing import Literal

SchedulerName = Literal["asha", "median", "none"]
SearcherName = Literal["random", "grid", "optuna", "pareto"]

DEFAULT_TRIALS = 24
