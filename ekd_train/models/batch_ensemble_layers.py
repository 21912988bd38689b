"""The layers of BatchEnsemble: those of a network that hold a weight, each with its factors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_CROSSOVER = 4
"""Input values per member's weight below which scaling activations is the faster; measured on a CPU
with 3x3 convolutions, forward and backward."""

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@dataclass
class ActiveMembers:
    """Whom the batch at hand is tiled for; all layers of one BatchEnsemble hold the same object."""

    members: tuple[int, ...] = ()
    images: int = 0
    """In the batch before it was tiled."""


class BatchEnsembleLayer(nn.Module, ABC):
    """One layer whose weight `w` member m uses as `w * (s_m r_m^T)`, and its bias as `s_m * b`.

    r `(s, in)` and s `(s, out)` are the factors, 1 to begin with. The layer is called for each member
    with those values in place of its own, so that whatever its forward does with them (some subclasses
    standardise a weight), a member is the plain layer of its weights. Another module that reads the
    layer's parameters gets the member's, where members are computed in turn.
    """

    layer: Any
    r: nn.Parameter
    s: nn.Parameter
    member_bias: nn.Parameter | None

    def __init__(
        self, layer: nn.Module, name: str, sizes: tuple[int, int], num_members: int, active: ActiveMembers
    ) -> None:
        super().__init__()
        self.layer = layer
        own = next(layer.parameters(recurse=False))
        self.r = nn.Parameter(own.new_ones(num_members, sizes[0]))
        self.s = nn.Parameter(own.new_ones(num_members, sizes[1]))
        self.register_parameter("member_bias", None)
        self._active = active
        self._name = name

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
        value = getattr(super().__getattr__("layer"), name)
        if isinstance(value, nn.Parameter):
            if len(self._active.members) != 1:
                raise self.refused(
                    f"another module reads its {name}, of which batch statistics need all members' at once"
                )
            return next(self._of_members(self._active.members))[name]
        if callable(value) and not isinstance(value, nn.Module):
            raise self.refused(f"another module calls its {name}()")
        return value

    @torch.no_grad()
    def averaged(self) -> nn.Module:
        """The plain layer of the mean factors: a changed `layer`, so this module is spent."""
        r, s = self.r.mean(0, keepdim=True), self.s.mean(0, keepdim=True)
        added = None if self.member_bias is None else self.member_bias.mean(0, keepdim=True)
        for name, values in self._values(r, s, added).items():
            trained = getattr(self.layer, name).requires_grad
            setattr(self.layer, name, nn.Parameter(values[0], trained))
        return self.layer

    @abstractmethod
    def _values(self, r: Tensor, s: Tensor, added: Tensor | None) -> dict[str, Tensor]:
        """The layer's parameters that factors change, each `(s, *parameter.shape)`."""

    def _of_members(self, members: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        """Those parameters of each of `members`."""
        added = None if self.member_bias is None else _rows(self.member_bias, members)
        values = self._values(_rows(self.r, members), _rows(self.s, members), added)
        for own in zip(*(value.unbind(0) for value in values.values()), strict=True):
            yield dict(zip(values, own, strict=True))

    def _checked(self, rows: int) -> tuple[int, ...]:
        """The active members, if there can be `rows` rows of them."""
        members, images = self._active.members, self._active.images
        if not members:
            raise RuntimeError(
                f"{self._name}: called outside of its BatchEnsemble's forward, as activation checkpointing "
                "does; switch that off"
            )
        due = len(members) * images
        if len(members) > 1 and due and rows % due:
            raise self.refused(
                f"called on {rows} rows where batch statistics need those of {len(members)} x {images} images"
            )
        return members

    def refused(self, why: str) -> TypeError:
        """The error that says why this layer cannot have factors."""
        return not_understood(self._name, self.layer, why)


class _OneWeight(BatchEnsembleLayer):
    """A layer that is linear in its input, or made of one that is.

    Scaling is memory traffic. Where maps are large, each member's *weights* are formed; where large
    weights meet few numbers, as in a head, *activations* are scaled around one call, if the class is
    torch's own.
    """

    def add_member_bias(self) -> None:
        """Adds a bias per member `(s, out)`, from 0, that s does not scale."""
        self.member_bias = nn.Parameter(torch.zeros_like(self.s))

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """`x` holds the active members' rows one member after the other, and so does the result."""
        members = self._checked(len(x))
        few = x.numel() < _CROSSOVER * len(members) * self.layer.weight.numel()
        if few and type(self.layer) in (nn.Linear, *CONVOLUTIONS):
            return self._scale_activations(x, members, *others)
        parts = zip(x.chunk(len(members)), self._of_members(members), strict=True)
        return torch.cat([functional_call(self.layer, own, (part, *others)) for part, own in parts])

    def _scale_activations(self, x: Tensor, members: Sequence[int], *others: Any) -> Tensor:
        r, s = _rows(self.r, members), _rows(self.s, members)
        tiling = (len(r), len(x) // len(r))  # not -1, which an empty batch leaves open
        x = (x.unflatten(0, tiling) * self._against_rows(r, x.dim())).flatten(0, 1)
        y = self.layer(x, *others)
        y = y.unflatten(0, tiling) * self._against_rows(s, y.dim())
        if self.member_bias is not None:
            y = y + self._against_rows(_rows(self.member_bias, members), x.dim())
        return y.flatten(0, 1)

    def _values(self, r: Tensor, s: Tensor, added: Tensor | None) -> dict[str, Tensor]:
        values = {"weight": self._weights(r, s)}
        if self.layer.bias is not None:
            bias = s * self.layer.bias
            values["bias"] = bias if added is None else bias + added
        return values

    @abstractmethod
    def _weights(self, r: Tensor, s: Tensor) -> Tensor:
        """Weights `(s, *weight.shape)`."""

    @abstractmethod
    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        """`values (s, channel)` shaped to broadcast against activations `(s, b, ...)` of `dims + 1` axes."""


class BatchEnsembleConv(_OneWeight):
    """A convolution of 1 to 3 dimensions, transposed or not, whose factors r `(s, in_channels)` and
    s `(s, out_channels)` scale channels."""

    def __init__(self, layer: nn.Module, name: str, num_members: int, active: ActiveMembers) -> None:
        assert isinstance(layer, CONVOLUTIONS)
        super().__init__(layer, name, (layer.in_channels, layer.out_channels), num_members, active)

    def _weights(self, r: Tensor, s: Tensor) -> Tensor:
        groups, weight = self.layer.groups, self.layer.weight
        # `(out, in / groups, ...)`: output channels read the input channels of their own group only.
        # Of a transposed convolution `(in, out / groups, ...)`.
        first, second = (r, s) if self.layer.transposed else (s, r)
        second = second.unflatten(1, (groups, -1)).repeat_interleave(weight.shape[0] // groups, dim=1)
        return weight * (first[:, :, None] * second)[(..., *[None] * (weight.dim() - 2))]

    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        return values[(slice(None), None, slice(None), *[None] * (self.layer.weight.dim() - 2))]


class BatchEnsembleLinear(_OneWeight):
    """A linear layer whose factors r `(s, in_features)` and s `(s, out_features)` scale features."""

    def __init__(self, layer: nn.Module, name: str, num_members: int, active: ActiveMembers) -> None:
        assert isinstance(layer, nn.Linear)
        super().__init__(layer, name, (layer.in_features, layer.out_features), num_members, active)

    def _weights(self, r: Tensor, s: Tensor) -> Tensor:
        return scaled(self.layer.weight, r, s)

    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        return values.view(len(values), *[1] * (dims - 1), -1)


def not_understood(name: str, module: nn.Module, why: str) -> TypeError:
    """The error that names a module and says why it cannot have factors."""
    return TypeError(
        f"cannot make a BatchEnsemble of module {name or '(the module itself)'!r}: "
        f"{type(module).__name__}: {why}"
    )


def scaled(weight: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """`weight (out, in)` of each member: `(s, out, in)`."""
    return weight * (s[:, :, None] * r[:, None, :])


def _rows(values: Tensor, members: Sequence[int]) -> Tensor:
    """The rows of `members`; `values` itself, and no copy, where that is all of them in order."""
    if tuple(members) == tuple(range(len(values))):
        return values
    return values[list(members)]
