"""Names of classes beside given weights: where training scripts keep them, and whether they are ours."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

KEYS = ("class_names", "classes", "CLASSES", "class_to_idx", "idx_to_class", "id2label")
"""Under which scripts save them."""
WITHIN = ("meta", "hyper_parameters", "config")
"""Of what a checkpoint holds, what may hold them in turn."""
MOST_CLASSES = 100_000
MOST_CHARACTERS = 1000


def names_within(content: Any) -> tuple[str, ...] | None:
    """The names of classes that a checkpoint holds beside its tensors, in the order of logits; None: none.

    Lists of names, and dictionaries of names and numbers, either way round.
    """
    if not isinstance(content, Mapping):
        return None
    for holder in (content, *(content.get(key) for key in WITHIN)):
        for key in KEYS:
            found = _listed(holder.get(key)) if isinstance(holder, Mapping) else None
            if found is not None:
                return found
    return None


def in_the_order_of(theirs: Sequence[str] | None, ours: Sequence[str]) -> list[int] | None:
    """For each of our classes the number that it has among theirs; None where that cannot be told.

    Names are alike whatever their case, and with `_`, `-` or blanks between their words. A class of ours that
    they do not have is -1. Names that have nothing in common are of two vocabularies, and tell nothing.

    >>> in_the_order_of(["Tabby cat", "dog"], ["dog", "tabby_cat"])
    [1, 0]
    """
    if theirs is None or len(theirs) != len(ours):
        return None
    for folded in (_folded, str):
        number = {folded(name): index for index, name in enumerate(theirs)}
        wanted = [folded(name) for name in ours]
        if len(number) == len(theirs) and len(set(wanted)) == len(ours):
            found = [number.get(name, -1) for name in wanted]
            return found if max(found) >= 0 else None
    return None


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _listed(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, Mapping):
        if not 0 < len(value) <= MOST_CLASSES:
            return None
        pairs = [(name, number) if _is_number(number) else (number, name) for name, number in value.items()]
        by_number = {int(number): name for name, number in pairs if _is_number(number) or _is_digits(number)}
        value = [by_number.get(number) for number in range(len(value))]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_CLASSES:
        return None
    plain = all(type(name) in (str, int) and len(str(name)) <= MOST_CHARACTERS for name in value)
    return tuple(map(str, value)) if plain else None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_CLASSES


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value) is not None
