"""What a result is known by: the hash of a format number and of the settings that differ from their defaults.

A new key whose default keeps the behaviour of before leaves every identity as it was, so runs, networks and
caches of earlier versions stay valid. Where the meaning of a default or of a value changes, `FORMAT` does.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

FORMAT = 2
"""Changes when the same settings, written alike, begin to mean another result."""


def identity_of(*parts: Any) -> str:
    """SHA-256, in hexadecimal, of `FORMAT` and `parts`: settings, JSON values, or tuples and dicts of these.

    The order of keys does not matter, nor whether a whole number is an int or a float.
    """
    return hashlib.sha256(_text([FORMAT, *parts]).encode()).hexdigest()


def differing(settings: BaseModel, without: Collection[str] = ()) -> dict[str, Any]:
    """The settings that differ from their defaults, as nested dictionaries of plain JSON values.

    A model within is compared key by key with the default of its field. Lists are compared as wholes; of a
    model in a list, what differs from the defaults of its class is kept.

    Args:
        settings: a model, perhaps of models. Fields without a default are always kept.
        without: dotted keys to leave out, besides those that a model says are `decided_otherwise`.
    """
    return _differing(settings, None, without, "")


def _differing(
    value: BaseModel, reference: BaseModel | None, without: Collection[str], prefix: str
) -> dict[str, Any]:
    """Of `value` what differs from `reference`, or from the defaults where that is not of the same class.

    Of another class, what tells the two apart is kept too: a field that can have one value only.
    """
    kept = {}
    without = {*without, *(f"{prefix}{name}" for name in getattr(value, "decided_otherwise", ()))}
    alike = type(reference) is type(value)
    for name, field in type(value).model_fields.items():
        key = f"{prefix}{name}"
        if key in without:
            continue
        item, default = getattr(value, name), getattr(reference, name) if alike else _default(field)
        if isinstance(item, BaseModel):
            inner = _differing(item, default if isinstance(default, BaseModel) else None, without, f"{key}.")
            same = type(default) is type(item) and not inner
        else:
            inner = _plain(item)
            same = default is not _MISSING and _text(default) == _text(item)
        if not same or (not alike and get_origin(field.annotation) is Literal and _only_one(field)):
            kept[name] = inner
    return kept


_MISSING = object()


def _default(field: FieldInfo) -> Any:
    return _MISSING if field.is_required() else field.get_default(call_default_factory=True)


def _only_one(field: FieldInfo) -> bool:
    return len(field.annotation.__args__) == 1  # type: ignore[union-attr]


def _text(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """`value` as JSON: of models what differs in them, whole floats as ints. Raises `ValueError` if it has no
    such form."""
    match value:
        case BaseModel():
            return differing(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case None | str() | int() | float():
            return value
    return _plain(to_jsonable_python(value))
