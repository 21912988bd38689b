"""Whether weights that exist fit the network and the classes that they are meant for."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ekd_train.data.description import DataDescription, ImageSpec
from ekd_train.models.build_network import build_plain
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError
from orchestrator.pretrained.class_names import in_the_order_of
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.parts import the_network

INNER = "network."
"""What a `Classifier` puts before the names of the stock class."""


def chosen(
    network: PretrainedNetwork, architecture: Architecture, data: DataDescription, file: str
) -> PretrainedNetwork:
    """`network` with the one of its state dicts, and of that the part, which the architecture expects.

    `file`: what `weights` is. Raises `ExperimentError`: see `the_network`.
    """
    expected = _shapes(architecture, data)
    return the_network(
        network,
        {name.removeprefix(INNER): shape for name, shape in expected.items()},
        {name.removeprefix(INNER) for name in _head(architecture, data, expected)},
        file,
    )


def fitted(
    network: PretrainedNetwork, architecture: Architecture, data: DataDescription, *, new_head: bool
) -> dict[str, Tensor]:
    """The weights under the names of the architecture's classifier.

    Args:
        network: what was read, with the state dict that was chosen.
        architecture: what it is to be.
        data: of the run.
        new_head: where the classes are others, leave out the layer that makes the logits, instead of
            raising: it is made new. The weights may lack it already.

    Raises `ExperimentError` with one line: other names or shapes, another number or order of classes.
    """
    expected = _shapes(architecture, data)
    weights = _stripped(network.weights, expected)
    head = _head(architecture, data, expected)
    dispensable = head if new_head and not head & weights.keys() else set()
    absent = [
        name
        for name in expected.keys() - weights.keys() - dispensable
        if not name.endswith("num_batches_tracked")
    ]
    foreign = weights.keys() - expected.keys()
    if absent or foreign:
        problems = [
            f"{what} {_some(names)}" for what, names in (("lack", absent), ("also have", foreign)) if names
        ]
        raise ExperimentError(
            f"these weights are of another network than architecture {architecture.name}: "
            f"they {' and '.join(problems)}; name theirs"
        )
    wrong = [name for name, tensor in weights.items() if tensor.shape != expected[name]]
    if any(name not in head or weights[name].shape[1:] != expected[name][1:] for name in wrong):
        shapes = [
            f"{name.removeprefix(INNER)} is {_size(weights[name])}, not {_size(expected[name])}"
            for name in wrong
        ]
        grey = data.image_shape[0] == 1 and any(weights[name].shape[1:2] == (3,) for name in wrong)
        way = (
            "state their mean and std, three values each, to show them grey images" if grey else "name theirs"
        )
        raise ExperimentError(
            f"these weights have other shapes than architecture {architecture.name}: {'; '.join(shapes[:3])}"
            f"; {way} (and their image_size)"
        )
    problem = (
        f"they have {weights[wrong[0]].shape[0]} classes, the data {data.num_classes}; take a teacher of the "
        "data's classes"
        if wrong
        else _other_classes(network.class_names, data.class_names, head)
    )
    if problem and not new_head:
        raise ExperimentError(f"{problem}, or set fine_tune: true, which makes a new head and trains on")
    return {name: tensor for name, tensor in weights.items() if not (problem and name in head)}


def _head(architecture: Architecture, data: DataDescription, expected: Mapping[str, torch.Size]) -> set[str]:
    """Names of the tensors of the layer that makes the logits."""
    more = _shapes(architecture, data.model_copy(update={"num_classes": data.num_classes + 1}))
    return {name for name, shape in expected.items() if more[name] != shape}


def _shapes(architecture: Architecture, spec: ImageSpec) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: t.shape for name, t in build_plain(architecture, spec).state_dict().items()}


def _stripped(weights: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """`weights` without what wrappers have put before all names (`module.`, `model.`), and with ours."""
    names = {name: name for name in weights}
    inner = {name.removeprefix(INNER) for name in expected}
    while not inner.intersection(names.values()):
        parts = {name.partition(".")[0] for name in names.values()}
        if len(parts) != 1 or not all("." in name for name in names.values()):
            break
        names = {name: short.partition(".")[2] for name, short in names.items()}
    return {f"{INNER}{short}": weights[name] for name, short in names.items()}


def _other_classes(theirs: Sequence[str] | None, ours: Sequence[str], head: Collection[str]) -> str | None:
    """What is wrong with a network's classes, as many as the data's; None: nothing, or nobody knows."""
    order = in_the_order_of(theirs, ours)
    if theirs is None or order is None or order == list(range(len(ours))):
        return None
    place = next(i for i, number in enumerate(order) if number != i)
    said = f"number {place} is {theirs[place][:40]!r}, the data's {ours[place]!r}"
    if min(order) < 0:
        return f"they have other classes: {said}; take a teacher of the data's classes"
    rows = str(order) if len(order) <= 100 else "[theirs.index(name) for name in the data's class names]"
    layer = " and ".join(sorted(name.removeprefix(INNER) for name in head))
    return f"they have the classes in another order: {said}; save them with {layer} in the order {rows}"


def _some(names: Collection[str]) -> str:
    shown = sorted(name.removeprefix(INNER) for name in names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _size(of: Tensor | torch.Size) -> str:
    return "x".join(map(str, of.shape if isinstance(of, Tensor) else of)) or "a number"
