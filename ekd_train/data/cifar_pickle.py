"""CIFAR's python pickles, read without running anything they say.

A pickle is a program: `pickle.load` imports and calls whatever it names. CIFAR's files need
little of that language: dictionaries, lists, strings, integers, and NumPy arrays of bytes.
So this module interprets exactly those opcodes itself. The names of NumPy's own functions
are recognised and their arrays built here from the raw bytes; any other name, opcode or key
is refused. Nothing is imported or called, and memory stays within a small multiple of the file.
"""

import math
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ekd_train.regular_file import open_regular

from .errors import DataError

REMEDY = "fetch the file again from its publisher"
MOST_BYTES = 256 << 20
"""The largest of CIFAR's files has 155 MB."""
MAX_CALLS = 16
"""CIFAR's files need three to five. Each may copy what it is given, so many could fill the memory."""

ADMITTED_GLOBALS = frozenset(
    {
        "numpy ndarray",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",  # written under NumPy 1, as CIFAR's own files are
        "numpy._core.multiarray _reconstruct",
        "numpy.core.numeric _frombuffer",  # what protocol 5 writes
        "numpy._core.numeric _frombuffer",
        "_codecs encode",  # how Python 3 writes bytes in protocols 0 to 2
    }
)


@dataclass(frozen=True)
class _Global:
    """A name that the pickle would import; here it stays a name."""

    name: str


@dataclass
class _Array:
    """An array being described: its values once they are known."""

    values: np.ndarray | None = None


class _Mark:
    """Where a run of stack items begins."""


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of CIFAR's kind; its keys become strings.

    Arrays are uint8. Python 2's byte strings come as latin-1 text.

    Raises:
        DataError: the file is missing, unreadable, truncated, not such a pickle, or names
            anything but NumPy's array constructors (the message says what).
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(path, f"is larger than {MOST_BYTES >> 20} MiB", REMEDY)
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        remedy = "check data.root; `python -m ekd_train.data.prepare` fetches it"
        raise DataError(path, "does not exist", remedy) from None
    except OSError as error:
        raise DataError(
            path, f"cannot be read ({error.strerror})", "check the file and its permissions"
        ) from error
    try:
        result = _interpret(content, path)
    except DataError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, StopIteration) as error:
        # Only what a malformed program does to the small interpreter below.
        raise DataError(path, f"is a truncated or damaged pickle ({error})", REMEDY) from error
    if not isinstance(result, dict):
        raise DataError(path, f"holds a {type(result).__name__}, not a dictionary", REMEDY)
    return {_text(key): _finished(value) for key, value in result.items()}


def _interpret(content: bytes, path: Path) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    calls = 0
    operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(content)
    for opcode, argument, _ in operations:
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1":
                if not -(2**63) <= argument < 2**63:
                    raise ValueError("an integer of more than 64 bits")
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # Python 2's bytes, here as latin-1 text
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                stack.append(_Mark)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(_popped(stack, int(opcode.name[-1]))))
            case "LIST":
                stack.append(_since_mark(stack))
            case "DICT":
                pairs = _since_mark(stack)
                stack.append({})
                _set_items(stack[-1], pairs)
            case "APPEND":
                (item,) = _popped(stack, 1)
                _of_type(stack[-1], list).append(item)
            case "APPENDS":
                items = _since_mark(stack)
                _of_type(stack[-1], list).extend(items)
            case "SETITEM":
                pairs = _popped(stack, 2)
                _set_items(stack[-1], pairs)
            case "SETITEMS":
                pairs = _since_mark(stack)
                _set_items(stack[-1], pairs)
            case "GLOBAL":
                stack.append(_admitted(argument, path))
            case "STACK_GLOBAL":
                stack.append(_admitted(" ".join(_popped(stack, 2)), path))
            case "REDUCE" | "BUILD":
                calls += 1
                if calls > MAX_CALLS:
                    raise DataError(
                        path, "was refused: it describes more arrays than CIFAR's files do", REMEDY
                    )
                target, argument = _popped(stack, 2)
                stack.append(_call(target, argument) if opcode.name == "REDUCE" else _built(target, argument))
            case "STOP":
                return stack.pop()
            case refused:
                raise DataError(
                    path, f"was refused: a CIFAR file has no use for the pickle opcode {refused}", REMEDY
                )
    raise ValueError("it has no end")


def _admitted(name: str, path: Path) -> _Global:
    if name not in ADMITTED_GLOBALS:
        shown = name.replace(" ", ".")[:80]
        raise DataError(path, f"was refused: it calls {shown}, which a CIFAR file has no use for", REMEDY)
    return _Global(name)


def _call(target: Any, arguments: Any) -> Any:
    """What NumPy's function would return, built here."""
    function = _of_type(target, _Global).name
    if function.endswith("_reconstruct"):  # an empty array that BUILD fills
        return _Array()
    if function == "numpy dtype":
        if arguments[0] not in ("u1", "|u1"):
            raise ValueError("an array of another type than bytes")
        return _Global("numpy dtype u1")
    if function.endswith("_frombuffer"):
        content, dtype, shape, order = arguments
        return _Array(_array(content, dtype, shape, order))
    if function == "_codecs encode" and arguments[1] == "latin1":
        return _bytes(arguments[0])
    raise ValueError(f"a call of {function}")


def _built(target: Any, state: Any) -> Any:
    """`target` after the second half of NumPy's `__reduce__`."""
    if target == _Global("numpy dtype u1"):
        return target  # the state is byte order and alignment, which single bytes do not have
    _, shape, dtype, is_fortran, content = state
    _of_type(target, _Array).values = _array(content, dtype, shape, "F" if is_fortran else "C")
    return target


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if dtype != _Global("numpy dtype u1"):
        raise ValueError("an array of another type than bytes")
    raw = _bytes(content)
    if any(size < 0 for size in shape) or math.prod(shape) != len(raw):
        raise ValueError(f"an array of shape {shape} with {len(raw)} bytes")
    return np.frombuffer(bytearray(raw), dtype=np.uint8).reshape(shape, order="F" if order == "F" else "C")


def _bytes(value: Any) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else bytes(_of_type(value, (bytes, bytearray)))


def _text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _finished(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


def _of_type(value: Any, expected: Any) -> Any:
    if not isinstance(value, expected):
        raise TypeError(f"an unexpected {type(value).__name__}")
    return value


def _popped(stack: list[Any], count: int) -> list[Any]:
    if count > len(stack):
        raise IndexError("an empty stack")
    start = len(stack) - count
    items = stack[start:]
    del stack[start:]
    return items


def _since_mark(stack: list[Any]) -> list[Any]:
    count = next(count for count, item in enumerate(reversed(stack)) if item is _Mark)
    items = _popped(stack, count)
    stack.pop()
    return items


def _set_items(target: Any, pairs: list[Any]) -> None:
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Strings only: the hash of a nested tuple can take for ever.
        _of_type(target, dict)[_of_type(key, (str, bytes))] = value
