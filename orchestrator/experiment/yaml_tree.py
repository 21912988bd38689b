"""YAML as a plain tree of mappings, lists and scalars, and the dotted keys that change it.

Stricter than YAML where YAML hides mistakes: a key that stands twice, a key that is not text, a
mapping that contains itself are errors; `1e-3` is a number, as everywhere else; and `010`, `1:30`
or a date, which YAML 1.1 reads as 8, as 90 and as an object, is text, which no number's key takes.
"""

import io
import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ekd_train.regular_file import open_regular
from orchestrator.errors import ExperimentError

MOST_VALUES = 100_000
"""More are no experiment, but aliases of aliases that would fill the memory."""
MOST_CHARACTERS = 1_000_000


class _Loader(yaml.SafeLoader):
    """Safe, strict about keys, and bounded before anything is made of what is read."""

    merged = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node. Raises `yaml.composer.ComposerError`: it has a tag, or is one too many."""
        event = self.peek_event()
        self.nodes += 1
        problem = (
            f"has more than {MOST_VALUES} values; is it an experiment?" if self.nodes > MOST_VALUES else ""
        )
        if getattr(event, "tag", None) is not None:  # `!!int` takes minutes over what no number looks like
            problem = f"leave out the tag {event.tag!r}: what is written says what it is"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what its merge keys (`<<`) name, and count it: a few lines of them can mean millions."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MOST_VALUES:
            problem = f"its merge keys (<<) make more than {MOST_VALUES} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of `node`. Raises `yaml.constructor.ConstructorError`."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            problem = "a key must be text" if not isinstance(key, str) else f"the key {key!r} stands twice"
            if not isinstance(key, str) or key in seen:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_TIME = "tag:yaml.org,2002:timestamp"
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (*_NUMBERS, _TIME)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list("-+.0123456789"))


def read_yaml(text: str, where: str) -> Any:
    """The value that `text` stands for; nothing in it is shared. Raises `ExperimentError`, naming `where`.

    >>> read_yaml("learning_rate: 1e-3", "x.yaml")
    {'learning_rate': 0.001}
    """
    if len(text) > MOST_CHARACTERS:
        raise ExperimentError(f"{where}: is longer than {MOST_CHARACTERS} characters; is it an experiment?")
    try:
        return _plain(yaml.load(text, Loader=_Loader), where, count(1))  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ExperimentError(f"{where}: not valid YAML: {at}{error.problem or error}") from None
    except RecursionError:
        raise ExperimentError(f"{where}: not usable: nested too deeply, or within itself") from None
    except ExperimentError:
        raise
    except (yaml.YAMLError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExperimentError(f"{where}: not valid YAML: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file, no more of it than `read_yaml` takes; raises `OSError` or `UnicodeDecodeError`."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8") as file:
        return file.read(MOST_CHARACTERS + 1)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Change `tree` by `key=value` texts, as `--set` takes them; raises `ExperimentError`."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ExperimentError(f"--set {override}: write it as key=value, as in --set student.members=4")
        set_key(tree, key, read_yaml(text, f"--set {override}"))


def set_key(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `tree["a"]["b"]` for `a.b`; digits index lists. Raises `ExperimentError` on a dead end."""
    *parents, last = parts = dotted.split(".")
    if not all(parts):
        raise ExperimentError(f"{dotted!r} is not a key; write it dotted, as in student.members")
    node: Any = tree
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, part, dotted)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ExperimentError(f"{dotted}: {'.'.join(parents[: depth + 1])} has no keys below it")
    node[_index(node, last, dotted) if isinstance(node, list) else last] = value


def _index(node: list[Any], part: str, dotted: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", part) or int(part) >= len(node):
        raise ExperimentError(f"{dotted}: {part} is not an index of a list of {len(node)}")
    return int(part)


def _plain(value: Any, where: str, seen: Iterator[int]) -> Any:
    """A copy of JSON's types only, that shares nothing: what aliases pointed at may change in one place."""
    if next(seen) > MOST_VALUES:
        raise ExperimentError(f"{where}: has more than {MOST_VALUES} values; is it an experiment?")
    if isinstance(value, dict):
        return {key: _plain(item, where, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, where, seen) for item in value]
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise ExperimentError(f"{where}: {value[:40]!r} has a character that no name or path can have")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ExperimentError(f"{where}: a whole number has more than 18 digits; no key takes one")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExperimentError(f"{where}: {type(value).__name__} is not a value that an experiment has")
