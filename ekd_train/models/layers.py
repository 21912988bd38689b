"""The layers of a network in order, by the names of its parameters: for their rates, and freezing."""

from collections.abc import Collection

from torch import nn

from ekd_train.models.branches import Branched

_AROUND = ("network", "shared")
"""What stands before a name of the plain network: `Classifier`, members, a trainee."""
_SIDE_BY_SIDE = "networks"
"""What stands before the number of a whole network (`Papa`)."""

BACKBONE = "backbone"
"""All layers but the last."""


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first part that ends in a digit, else the first part.

    >>> layer_of("network.shared.network.layer1.0.conv1.layer.weight"), layer_of("network.blocks.3.norm.bias")
    ('layer1', 'blocks.3')
    >>> layer_of("network.cls_token"), layer_of("network.fc.weight")
    ('cls_token', 'fc')
    """
    plain = _plain(name).split(".")
    parts = plain[:-1] or plain
    numbered = next((i for i, part in enumerate(parts) if part[-1:].isdigit()), 0)
    return ".".join(parts[: numbered + 1])


def depths(network: nn.Module) -> dict[str, int]:
    """How many layers come after each parameter's, by its name: 0 for those of the head.

    Raises `ValueError` for branches, whose layers do not come one after the other.
    """
    if any(isinstance(module, Branched) for module in network.modules()):
        raise ValueError("layer_decay and freeze are not for the branches of student.method=ekd")
    places: dict[str, tuple[str, int]] = {}
    visits: dict[tuple[str, str], int] = {}
    before = ("", "")
    for name, _ in network.named_parameters():
        layer = _member(name), layer_of(name)
        # What has no number may stand on both sides of what has one: ViT's `encoder.pos_embedding` and `.ln`.
        again = layer in visits and layer != before and not layer[1][-1:].isdigit()
        visits[layer] = visits.get(layer, 0) + again
        places[name], before = (layer[1], visits[layer]), layer
    order = list(dict.fromkeys(places.values()))
    return {name: len(order) - 1 - order.index(place) for name, place in places.items()}


def freeze(network: nn.Module, parts: Collection[str]) -> list[nn.Module]:
    """Have the named parts of `network` learn nothing, in place; the modules to be kept in evaluation mode.

    `parts`: names of the plain network's modules or parameters, or `backbone`. Raises `ValueError`: none is
    called so, nothing is left that learns, or branches.
    """
    if not parts:
        return []
    after = depths(network)
    names = list(after)
    frozen: set[str] = set()
    for part in parts:
        if part == BACKBONE:
            found = {name for name in names if after[name] > 0}
        else:
            found = {name for name in names if f"{_plain(name)}.".startswith(f"{part}.")}
        if not found:
            known = ", ".join(dict.fromkeys(map(layer_of, names)))
            raise ValueError(f"freeze: there is no {part!r}; there are {BACKBONE}, {known}")
        frozen |= found
    if len(frozen) == len(names):
        raise ValueError("freeze: nothing is left that learns")
    parameters = dict(network.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [
        module
        for module in network.modules()
        if (own := list(module.parameters())) and not any(parameter.requires_grad for parameter in own)
    ]


def _plain(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and (parts[0] in _AROUND or parts[0] == _SIDE_BY_SIDE):
        parts = parts[2 if parts[0] == _SIDE_BY_SIDE else 1 :]
    return ".".join(parts)


def _member(name: str) -> str:
    """Of which whole network it is, where there are several."""
    parts = name.split(".")
    return parts[parts.index(_SIDE_BY_SIDE) + 1] if _SIDE_BY_SIDE in parts[:-1] else ""
