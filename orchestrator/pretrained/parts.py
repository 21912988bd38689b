"""Which of the state dicts in a file, and which of the tensors in one, are the network."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import ExperimentError
from orchestrator.pretrained.network import PretrainedNetwork

State = dict[str, Tensor]

DEEPEST = 2
"""Levels of dictionaries around a state dict: `{"checkpoint": {"model": ...}}`."""
MOST_PARTS = 1000

NO_NETWORK = re.compile(r"n_averaged|(\w+_)?(criterion|loss(_fn|_func|_function)?|metrics?)(\..*)?")
"""Names of what `torch.optim.swa_utils` counts, and of losses and metrics that a training module has."""


def state_dicts(content: Any) -> dict[str, State]:
    """The state dicts in what a script saved, by their dotted keys; "" is all of it.

    Raises `ExperimentError`: there is none, or one with tensors that are no dense real numbers.
    """
    found = dict(_within(content, "", DEEPEST))
    if not found:
        raise ExperimentError("holds no state dict, names with a tensor each")
    for state in found.values():
        if odd := [name for name, tensor in state.items() if not _plain(tensor)]:
            raise ExperimentError(f"{odd[0]} is sparse, quantised, complex or empty; store it dense")
    return found


def part_of(parts: Mapping[str, State], key: str) -> State:
    """The state dict of that key, or the tensors of one whose names begin with the rest of it.

    Raises `ExperimentError`, which says what there is.
    """
    for outer, state in parts.items():
        rest = key if not outer else key.removeprefix(outer).removeprefix(".") if _below(key, outer) else None
        if rest is None:
            continue
        if not rest:
            return state
        if below := {name.removeprefix(f"{rest}."): t for name, t in state.items() if _below(name, rest)}:
            return below
    there = list(dict.fromkeys([*filter(None, parts), *_beginnings(parts)]))
    raise ExperimentError(f"holds no {key!r}, but {', '.join(there[:10]) or 'one state dict alone'}")


def the_network(
    network: PretrainedNetwork, expected: Mapping[str, torch.Size], head: Collection[str], file: str
) -> PretrainedNetwork:
    """`network` with those of its tensors alone that an architecture expects, by its names for them.

    What wrappers put before all names (`module.`, `model.`) goes. Where none fits, `network` as it was read,
    of several parts the one that has most of the names.

    Args:
        network: what was read.
        expected: the architecture's names and shapes.
        head: names among them of which the first axis may be another.
        file: what `weights` is, to say how to name one part of it.

    Raises `ExperimentError`: more than one fits, or beside the one that does there are tensors that may be
    part of it.
    """
    parts, whole = network.parts or {network.key: network.weights}, file.partition("#")[0]
    fitting: list[tuple[str, str, State]] = []
    for key, state in parts.items():
        for beginning in _wrappers(state, expected):
            inside = {
                n.removeprefix(beginning): tensor for n, tensor in state.items() if n.startswith(beginning)
            }
            own = {name: tensor for name, tensor in inside.items() if not NO_NETWORK.fullmatch(name)}
            if (
                network.program is not None
            ):  # which is compared: whatever else it has, it is the same function
                own = {name: tensor for name, tensor in own.items() if name in expected}
            if _fits(own, expected, head) and not any(_same(own, other) for *_, other in fitting):
                fitting.append((key, beginning, own))
    if not fitting:
        key = max(parts, key=lambda key: len(_most_alike(parts[key], expected)))
        return replace(network, weights=parts[key], parts={}, key=key)
    if len(fitting) > 1:
        names = [_joined(key, beginning) for key, beginning, _ in fitting]
        raise ExperimentError(
            f"holds several networks of this architecture: {', '.join(name or 'itself' for name in names)}; "
            f"name the one to use: weights: {whole}#{next(filter(None, names))}"
        )
    key, beginning, own = fitting[0]
    beside = [
        name for name in parts[key] if not (name.startswith(beginning) and name[len(beginning) :] in own)
    ]
    known = [name for name in beside if NO_NETWORK.fullmatch(name.removeprefix(beginning))]
    if (foreign := [name for name in beside if name not in known]) and network.program is None:
        more = f" and {len(foreign) - 3} more" * (len(foreign) > 3)
        raise ExperimentError(
            f"beside the network, whose names begin with {beginning!r}, are {', '.join(foreign[:3])}{more}; "
            f"if these are no part of it, name what is: weights: {whole}#{_joined(key, beginning)}"
        )
    return replace(
        network,
        weights=own,
        parts={},
        key=key,
        passed_over=tuple(known if network.program is None else beside),
    )


def _within(content: Any, key: str, deeper: int) -> Iterator[tuple[str, State]]:
    if not isinstance(content, Mapping):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, {str(name): value for name, value in content.items()}
    elif deeper:
        for name, value in list(content.items())[:MOST_PARTS]:
            if isinstance(name, str):
                yield from _within(value, f"{key}.{name}" if key else name, deeper - 1)


def _wrappers(state: State, expected: Mapping[str, torch.Size]) -> list[str]:
    """What may stand before the names of the network."""
    probe = max(_needed(expected), key=len, default=None)
    found = [name.removesuffix(str(probe)) for name in state if name == probe or name.endswith(f".{probe}")]
    return list(dict.fromkeys(found))


def _needed(expected: Mapping[str, torch.Size]) -> list[str]:
    """Names that every file has: batches are counted since torch 0.4.1."""
    return [name for name in expected if not name.endswith("num_batches_tracked")]


def _fits(own: State, expected: Mapping[str, torch.Size], head: Collection[str]) -> bool:
    if own.keys() - expected.keys() or any(name not in own for name in _needed(expected)):
        return False
    shapes = [(tensor.shape, expected[name], name in head) for name, tensor in own.items()]
    return all(found == wanted or (of_head and found[1:] == wanted[1:]) for found, wanted, of_head in shapes)


def _most_alike(state: State, expected: Mapping[str, torch.Size]) -> set[str]:
    names = tuple(f".{name}" for name in expected)
    return {name for name in state if f".{name}".endswith(names)}


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _joined(key: str, beginning: str) -> str:
    return ".".join(filter(None, (key, beginning.rstrip("."))))


def _below(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(f"{beginning}.")


def _beginnings(parts: Mapping[str, State]) -> list[str]:
    return [
        _joined(key, name.partition(".")[0]) for key, state in parts.items() for name in state if "." in name
    ]


def _plain(tensor: Tensor) -> bool:
    """Whether it has a real number for each place of its shape, in memory."""
    special = tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
    return not special and tensor.layout == torch.strided
