"""What can be written to a tracking run, as data that survives in a journal.

Keys and values are brought within MLflow's limits when a record is made, so that a record
that was accepted here is not refused there.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ekd_train.persistence.bounded_json import read_bounded_json

MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_KEY_CHARACTERS = 250
_NOT_IN_KEYS = re.compile(r"[^\w./ :-]")


@dataclass(frozen=True)
class Metrics:
    """Values of one step; non-finite ones too: a loss that became NaN is what one looks for."""

    run: str
    values: Mapping[str, float]
    step: int
    timestamp_ms: int


@dataclass(frozen=True)
class Params:
    """Settings of a run, flat and already text."""

    run: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Tags:
    """Tags of a run; unlike params they may change."""

    run: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class DatasetInput:
    """A data set that the run reads; `source`, `schema` and `profile` are JSON texts."""

    run: str
    name: str
    digest: str
    source_type: str
    source: str
    context: str
    schema: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class Artifact:
    """A file, kept under `file` until it lies at `path` among the run's artifacts."""

    run: str
    path: str
    file: str


@dataclass(frozen=True)
class Status:
    """The end of a run: FINISHED, FAILED or KILLED."""

    run: str
    status: str
    end_time_ms: int


Record = Metrics | Params | Tags | DatasetInput | Artifact | Status
_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Metrics, Params, Tags, DatasetInput, Artifact, Status)
}


def to_line(record: Record) -> str:
    """One line of JSON, newline included."""
    return json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n"


def from_line(line: str) -> Record:
    """The record of a line.

    Raises:
        ValueError: not such a line (a process was killed while it wrote).
    """
    try:
        fields = read_bounded_json(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {line[:80]!r}") from error


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


def tensor_schema(image_shape: tuple[int, ...]) -> str:
    """MLflow's schema of uint8 images of `image_shape` (c, h, w) with integer labels, as JSON."""

    def spec(dtype: str, shape: tuple[int, ...]) -> str:
        return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}])

    specs = {"features": spec("uint8", (-1, *image_shape)), "targets": spec("int64", (-1,))}
    return json.dumps({"mlflow_tensorspec": specs})
