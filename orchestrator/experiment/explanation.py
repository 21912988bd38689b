"""What is wrong with an experiment, in one line that names the key, the rule and the nearest key."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ValidationError

from ekd_train.settings import Settings

SHOWN = 60
"""Characters of a wrong value that a message quotes."""

_ALSO_CALLED = {"lr": "learning_rate", "wd": "weight_decay"}
"""What other programs call it."""

_WORDS = {
    "a valid array": "a list",
    "an object": "a mapping of keys",
    "a valid dictionary": "a mapping of keys",
}


def explain(error: ValidationError, root: type[Settings], *, one_group: bool) -> str:
    """All that `error` found in a `root`, in one line.

    `one_group`: the file has `teachers.count`, not `teachers.0.count`.
    """
    found: dict[str, list[str]] = {}
    errors = error.errors()
    for item in errors:
        if item["type"] == "too_short":
            if any(other["loc"][: len(item["loc"])] == item["loc"] for other in errors if other is not item):
                continue  # pydantic does not count the items that are wrong
            item["type"], item["msg"] = "value_error", "name at least one"
        location = [part for part in item["loc"] if not _is_union_label(part)]
        shown = [part for i, part in enumerate(location) if not (one_group and i == 1 and part == 0)]
        key = ".".join(map(shown_key, shown))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; {_nearest(root, location, shown[:-1])}"
        elif key and item["type"] != "value_error":
            for theirs, ours in _WORDS.items():
                message = message.replace(theirs, ours)
            message = f"{message[0].lower()}{message[1:]}, not {quoted(item['input'])}"
        found.setdefault(key, []).append(message)
    return "; ".join(f"{key}: {' or '.join(texts)}" if key else texts[0] for key, texts in found.items())


def quoted(value: Any) -> str:
    """A value as it is written in YAML, on one line and not too long.

    >>> quoted(True), quoted(None), quoted("four"), quoted({"a": 1})
    ('true', 'null', "'four'", 'a mapping')
    """
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def shown_key(part: int | str) -> str:
    """Of a key that could be taken for something else than a key: quoted."""
    return str(part) if isinstance(part, int) or re.fullmatch(r"[\w.:-]{1,60}", part) else quoted(part)


def _nearest(root: type[Settings], location: list[Any], shown_parents: list[Any]) -> str:
    model = _model_at(root, location[:-1])
    known = list(model.model_fields)
    word = _ALSO_CALLED.get(str(location[-1]), str(location[-1]))
    if deeper := [".".join([*map(str, shown_parents), key]) for key in _keys_that_end(model, word)]:
        return f"did you mean {' or '.join(deeper[:3])}?"
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {'.'.join([*map(str, shown_parents), near[0]])}?"
    return f"known here: {', '.join(known)}"


def _is_union_label(part: object) -> bool:
    """Whether pydantic put it into a location to say which member of a union it tried."""
    return isinstance(part, str) and part.startswith(("constrained-", "function-", "literal[", "tuple["))


def _keys_that_end(model: Any, word: str) -> list[str]:
    """Dotted keys below `model` whose last part is `word`, the shortest first."""
    found = [word] if word in model.model_fields else []
    for name, field in model.model_fields.items():
        if (below := _settings_class(field.annotation)) is not None:
            found += [f"{name}.{key}" for key in _keys_that_end(below, word)]
    return sorted(found, key=lambda key: key.count("."))


def _model_at(root: type[Settings], location: Iterable[Any]) -> Any:
    model: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        model = _settings_class(model.model_fields[part].annotation)
    return model


def _settings_class(annotation: Any) -> Any:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, Settings) else None
    if typing.get_origin(annotation) is Literal:
        return None
    return next((found for a in typing.get_args(annotation) if (found := _settings_class(a))), None)
