"""What MLflow is to show of one run, within MLflow's limits on keys and values."""

import json
import posixpath
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

PARENT = "parent"
"""The name of the `ekd run` itself among its runs; the others have the names of their training runs."""

NOTE = "mlflow.note.content"
"""The tag that is a run's description, Markdown."""

MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_KEY_CHARACTERS = 250
_NOT_IN_KEYS = re.compile(r"[^\w./ :-]")


@dataclass
class RunState:
    """What MLflow is to show of one run, or a part of it."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)
    """By name and step; non-finite values too: a loss that became NaN is what one looks for."""
    datasets: dict[str, dict[str, str]] = field(default_factory=dict)
    """The fields of MLflow's `Dataset`, by what it is read for: `train`, `validation`, `test`."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Texts by path."""
    status: RunStatus | None = None
    """How it ended; None: it goes on, or this state does not say."""
    began: float | None = None
    """When, in seconds since 1970; None: when MLflow first hears of it."""
    ended: float | None = None
    """When; None: when MLflow hears of it."""

    def add_tags(self, tags: Mapping[str, object]) -> None:
        """Tags, of which a later value replaces an earlier one."""
        texts = {legal_key(key): shortened(str(value), MAX_TAG_CHARACTERS) for key, value in tags.items()}
        self.tags.update(texts)

    def add_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Values of one step."""
        self.metrics.update({(legal_key(name), step): float(value) for name, value in values.items()})


class Unwritten(RunState):
    """What MLflow does not have yet of one run."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[tuple[str, int], int] = {}
        """When each value of `metrics` came, in milliseconds: sent again, it is sent with the same."""
        self.whole = True
        """Whether all is here that the run lacks; else values were dropped, and it is not FINISHED."""

    def add(self, state: RunState) -> None:
        """Put `state` on top."""
        now = time.time_ns() // 1_000_000
        self.params |= state.params
        self.tags |= state.tags
        self.datasets |= state.datasets
        self.times = dict.fromkeys(state.metrics, now) | self.times  # first: an interrupt may come between
        self.metrics |= state.metrics
        self.artifacts |= state.artifacts
        self.status = state.status or self.status
        self.began, self.ended = state.began or self.began, state.ended or self.ended

    def drop_metrics(self) -> None:
        """Forget the values, which are in the run's storage."""
        self.whole = self.whole and not self.metrics
        self.metrics.clear()
        self.times.clear()

    def written(self) -> None:
        """MLflow has all but the artifacts."""
        for each in (self.params, self.tags, self.datasets, self.metrics, self.times):
            each.clear()
        self.status = None

    @property
    def only_artifacts(self) -> bool:
        """Whether MLflow has all but the artifacts."""
        return self.whole and not (self.params or self.tags or self.metrics or self.datasets or self.status)

    @property
    def nothing(self) -> bool:
        """Whether MLflow has it all."""
        return self.only_artifacts and not self.artifacts


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted params, within MLflow's limits.

    A list of settings is flattened by position, a list of plain values stays one param.

    >>> flattened({"seed": 1, "student": {"members": 4}, "sizes": [1, 2], "teachers": [{"depth": 10}]})
    {'seed': '1', 'student.members': '4', 'sizes': '[1, 2]', 'teachers.0.depth': '10'}
    """
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[legal_key(name)] = shortened(text, MAX_PARAM_CHARACTERS)
    return flat


def legal_key(key: str) -> str:
    """`key` with characters that MLflow refuses replaced by `_`, and as a normal path.

    >>> legal_key("teacher/0//loss (train)")
    'teacher/0/loss _train_'
    """
    path = posixpath.normpath(_NOT_IN_KEYS.sub("_", key)).lstrip("./")
    return path[:MAX_KEY_CHARACTERS].rstrip("/") or "_"


def shortened(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, with a note of how long it was.

    >>> shortened("abcdefghijklmnopqrstuvwxyz", 22)
    'abcde… [26 characters]'
    """
    if len(text) <= limit:
        return text
    note = f"… [{len(text)} characters]"
    return text[: limit - len(note)] + note
