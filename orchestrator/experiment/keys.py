"""Every key of an experiment, with default, range and meaning, and the JSON schema that says the same."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ekd_train.robustness.settings import RobustnessSettings
from ekd_train.settings import Pretrained, Settings
from orchestrator.experiment.schema import Experiment

NO_BOUND = 1e30
"""What float32 can hold: a bound that nobody meets."""

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Key:
    """A key as a user writes it."""

    name: str
    """Dotted: `student.training.epochs`; of a group of teachers `teachers.count`."""
    default: str
    """As it is written in YAML; empty of the one key that has none, `name`."""
    takes: str
    """What it takes, and its range, in words: `whole number from 1 up`."""
    meaning: str
    """What it decides, in which unit."""
    number: bool
    """Whether it takes a number, which has a unit."""


def experiment_keys() -> list[Key]:
    """Every key of an experiment, in the order of the settings."""
    defaults = Experiment(name="experiment").resolved()
    del defaults["name"]
    beside = {
        f"teachers.architecture.{name}" for name in Pretrained.model_fields
    }  # `Teachers` has them itself
    return [key for key in _keys(experiment_schema(), defaults) if key.name not in beside]


def evaluation_keys() -> list[Key]:
    """Every key that `ekd evaluate --set` takes."""
    return list(_keys(_lean_schema(RobustnessSettings), RobustnessSettings().model_dump(mode="json")))


def experiment_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, for editors."""
    schema = _lean_schema(Experiment)
    schema["required"].remove("name")  # the file's own, where it is left out
    del schema["properties"]["code"]
    teachers = schema["properties"]["teachers"]
    teachers["anyOf"] = [teachers["items"], {"type": teachers.pop("type"), "items": teachers.pop("items")}]
    return {"$schema": DRAFT, **schema}


def _lean_schema(settings: type[Settings]) -> dict[str, Any]:
    """pydantic's, without titles, which repeat the keys, and without the defaults of whole groups."""
    schema = settings.model_json_schema()
    for group in (schema, *schema.get("$defs", {}).values()):
        for entry in group.get("properties", {}).values():
            entry.pop("title", None)
            if isinstance(entry.get("default"), Mapping | list) and _groups(schema, entry):
                del entry["default"]
    return schema


def _keys(schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Key]:
    def below(group: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[Key]:
        for name, entry in group["properties"].items():
            default = defaults.get(name, entry.get("default"))
            if deeper := _groups(schema, entry):
                found = default[0] if isinstance(default, list) else default
                seen: set[str] = set()
                for choice in deeper:
                    for key in below(choice, found or {}, f"{prefix}{name}."):
                        if key.name not in seen:
                            seen.add(key.name)
                            yield key
            else:
                yield Key(
                    name=f"{prefix}{name}",
                    default=_written(default) if name in defaults or "default" in entry else "",
                    takes=_kind(entry),
                    meaning=" ".join(entry.get("description", "").split()),
                    number=_is_number(entry),
                )

    yield from below(schema, defaults, "")


def _written(default: Any) -> str:
    """As in YAML, on one line."""
    if isinstance(default, float):
        return f"{default:g}"
    return default if isinstance(default, str) and default else json.dumps(default)


def _choices(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What `entry` may be, one at a time."""
    either = entry.get("anyOf") or entry.get("oneOf")
    return [entry] if either is None else [found for choice in either for found in _choices(choice)]


def _groups(schema: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The groups of keys that may stand there, alone or in a list; none for a key with a value."""
    found = []
    for choice in _choices(entry):
        reference = choice.get("$ref") or choice.get("items", {}).get("$ref")
        if reference is not None:
            group = schema["$defs"][reference.rpartition("/")[2]]
            if "properties" in group and group not in found:
                found.append(group)
    return found


def _is_number(entry: Mapping[str, Any]) -> bool:
    return any(choice.get("type") in ("integer", "number") for choice in _choices(entry))


def _kind(entry: Mapping[str, Any]) -> str:
    """What an entry of a JSON schema takes, in words.

    >>> _kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'whole number from 1 up, or null'
    >>> _kind({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    'number above 0, at most 1'
    """
    words = [_one_kind(choice) for choice in _choices(entry)]
    return ", or ".join(dict.fromkeys(words))


def _one_kind(entry: Mapping[str, Any]) -> str:
    if "enum" in entry or "const" in entry:
        values = entry.get("enum", [entry.get("const")])
        return " | ".join(map(str, values))
    match entry.get("type"):
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return "package.module:name" if ":" in entry.get("pattern", "") else "text"
        case "array" if "prefixItems" in entry:
            return "[" + ", ".join(_kind(item) for item in entry["prefixItems"]) + "]"
        case "array":
            return f"list, each: {_kind(entry['items'])}"
        case "integer":
            return "whole number" + _range(entry)
        case "number":
            return "number" + _range(entry)
        case _:
            return "mapping"


def _range(entry: Mapping[str, Any]) -> str:
    below, above = entry.get("minimum"), entry.get("maximum")
    bounded = above is not None and above < NO_BOUND
    if below is not None and not bounded and "exclusiveMaximum" not in entry:
        return f" from {below:g} up"
    lower = f" from {below:g}" if below is not None else ""
    if "exclusiveMinimum" in entry:
        lower = f" above {entry['exclusiveMinimum']:g}"
    if "exclusiveMaximum" in entry:
        return f"{lower} to below {entry['exclusiveMaximum']:g}"
    if above is None or not bounded:
        return lower
    upper = f"{above:,.0f}" if above > 1 else f"{above:g}"
    return f"{lower} to {upper}" if below is not None else f"{lower}, at most {upper}"
