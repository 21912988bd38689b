"""What happened in a worker group, as its workers report it to the driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

EventKind = Literal["started", "progress", "epoch", "warning", "done", "failed", "restarted"]


@dataclass(frozen=True)
class Event:
    """Something that happened in a worker group: `run` is the job's name."""

    kind: EventKind
    group: int
    run: str
    data: dict[str, Any] = field(default_factory=dict)
