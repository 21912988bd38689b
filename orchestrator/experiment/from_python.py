"""What a program passes instead of a command line: taken as Python has it, and refused in Python's words."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import ExperimentError
from orchestrator.experiment.explanation import quoted

MOST_LEVELS = 100
"""No key lies as deep: what is deeper is within itself."""

_OPTION = re.compile(
    r"--(run-id|space|trials|searcher|scheduler|seeds|time-budget|max-concurrent)\b|--set (?=[^ ])"
)


def tree_of(value: Mapping[Any, Any]) -> dict[str, Any]:
    """An experiment as nested dictionaries: a copy of JSON's types; a path is its text.

    Raises `ExperimentError`, which names the key of anything else.
    """
    return {str(key): _plain(item, str(key), 1) for key, item in value.items()}


def _plain(value: Any, key: str, level: int) -> Any:
    if level > MOST_LEVELS:
        raise ExperimentError(f"{key[:80]}...: nested too deeply, or within itself")
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}", level + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}.{index}", level + 1) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExperimentError(
        f"{key}: {_kind(value)} is no value that an experiment has; give None, a bool, a number, a text, a "
        "path, a list or a dictionary"
    )


def texts_of(overrides: Iterable[str]) -> tuple[str, ...]:
    """Overrides as a caller gave them. Raises `ExperimentError`: not several texts."""
    if isinstance(overrides, str | bytes | Mapping) or not isinstance(overrides, Iterable):
        example = overrides if isinstance(overrides, str) and "=" in overrides else "student.members=3"
        raise ExperimentError(
            f"overrides: {_kind(overrides)}, not a list of texts; write it as [{example!r}]"
        )
    found = tuple(overrides)
    for text in found:
        if not isinstance(text, str) or not text.partition("=")[0] or "=" not in text:
            raise ExperimentError(
                f"overrides: {quoted(text) if isinstance(text, str) else _kind(text)}: write each as "
                "'key=value', such as 'student.members=4'"
            )
    return found


def text_of(value: object, name: str, what: str) -> str:
    """The argument `name`, a text or a path, which is `what`. Raises `ExperimentError`: something else."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ExperimentError(f"{name}: {_kind(value)}, not {what}")
    return text


def check_kind(value: object, kind: type, name: str, how: str) -> None:
    """Raise `ExperimentError` unless the argument `name` is of that kind; `how`: what makes one."""
    if not isinstance(value, kind):
        raise ExperimentError(f"{name}: {_kind(value)}, not {kind.__name__}; {how}")


def _kind(value: object) -> str:
    """A value in words: itself where it is a text, else its class."""
    return quoted(value) if isinstance(value, str) else f"of type {type(value).__name__}"


@contextmanager
def in_pythons_words() -> Iterator[None]:
    """What is wrong with an argument is said by its name, where it would say the command line's option."""
    try:
        yield
    except ExperimentError as error:
        error.args = (_OPTION.sub(lambda option: (option[1] or "").replace("-", "_"), str(error)),)
        raise
