"""Stored JSON, read as what it is until it is checked: text that anybody may have written."""

import json
from typing import Any

MOST_BYTES = 256 << 20
DEEPEST = 64
"""Levels of lists and objects; no document of this project has a dozen."""


def read_bounded_json(data: bytes | str) -> Any:
    """The value of a JSON document. Raises `ValueError` if it is damaged, too long or nested too deeply.

    >>> read_bounded_json(b'{"epoch": 4}')
    {'epoch': 4}
    >>> read_bounded_json("[" * 70 + "]" * 70)
    Traceback (most recent call last):
    ValueError: nested more than 64 levels deep
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES >> 20} MiB")
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    level, depth = [value], 0
    while level := [each for item in level for each in _within(item)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
    return value


def _within(value: Any) -> Any:
    """What of a value is a level deeper: itself none; a list's or object's values, if it is one."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
