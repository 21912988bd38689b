"""Layers that members of one network share but for what is a member's own, whatever that is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@dataclass
class ActiveMembers:
    """Whom the batch at hand is tiled for; all layers of one network hold the same object."""

    members: tuple[int, ...] = ()
    images: int = 0
    """In the batch before it was tiled."""


class MemberLayer(nn.Module, ABC):
    """One layer, called for each member with that member's parameters in place of its own.

    So a member is the plain layer of its weights, whatever the layer's forward does with them (some
    subclasses standardise a weight). Another module that reads the layer's parameters gets the member's,
    where members are computed in turn.
    """

    layer: Any

    def __init__(self, layer: nn.Module, name: str, active: ActiveMembers) -> None:
        super().__init__()
        self.layer = layer
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
            return next(self._of_members(self._active.members)).get(name, value)
        if callable(value) and not isinstance(value, nn.Module):
            raise self.refused(f"another module calls its {name}()")
        return value

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The first input, like the result, holds the active members' rows one member after the other."""
        x, *others = inputs
        members = self._checked(len(x))
        parts = zip(x.chunk(len(members)), self._of_members(members), strict=True)
        return torch.cat([functional_call(self.layer, own, (part, *others), options) for part, own in parts])

    @torch.no_grad()
    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The plain layer of the members' mean: a changed `layer`, so this module is spent."""
        for name, values in self._values(weights).items():
            trained = getattr(self.layer, name).requires_grad
            setattr(self.layer, name, nn.Parameter(values[0], trained))
        return self.layer

    @abstractmethod
    def _values(self, members: Sequence[int] | Tensor | None) -> dict[str, Tensor]:
        """The layer's parameters that differ between members, each `(s, *parameter.shape)`.

        `members`: whose; None, or the weights of all members: one row, of the mean of all members' own.
        """

    def _of_members(self, members: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        """Those parameters of each of `members`."""
        values = self._values(members)
        for own in zip(*(value.unbind(0) for value in values.values()), strict=True):
            yield dict(zip(values, own, strict=True))

    def _checked(self, rows: int) -> tuple[int, ...]:
        """The active members, if there can be `rows` rows of them."""
        members, images = self._active.members, self._active.images
        if not members:
            raise RuntimeError(
                f"{self._name}: called outside of its network's forward, as activation checkpointing does; "
                "switch that off"
            )
        due = len(members) * images
        if len(members) > 1 and due and rows % due:
            raise self.refused(
                f"called on {rows} rows where batch statistics need those of {len(members)} x {images} images"
            )
        return members

    def refused(self, why: str) -> TypeError:
        """The error that says why members cannot share this layer."""
        return not_understood(self._name, self.layer, why)


class MemberAttention(MemberLayer):
    """`nn.MultiheadAttention`, whose output projection is a `MemberLayer` within."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As `nn.MultiheadAttention`'s, of the active members' rows one member after the other."""
        batch_axis = 0 if self.layer.batch_first else 1
        members = self._checked(query.shape[batch_axis])

        def split(x: Tensor | None, axis: int = 0) -> Sequence[Any]:
            return [x] * len(members) if x is None or len(members) == 1 else x.chunk(len(members), axis)

        per_image = attn_mask is not None and attn_mask.dim() == 3
        inputs = zip(
            *(split(x, batch_axis) for x in (query, key, value)),
            split(key_padding_mask),
            split(attn_mask) if per_image else [attn_mask] * len(members),
            strict=True,
        )
        attended, weights = [], []
        try:
            for member, own, (q, k, v, padding, mask) in zip(
                members, self._of_members(members), inputs, strict=True
            ):
                self._active.members = (member,)  # whose output projection is read
                masks = {"key_padding_mask": padding, "attn_mask": mask}
                further = options | masks | {"need_weights": need_weights}
                output, weight = functional_call(self.layer, own, (q, k, v), further)
                attended.append(output)
                weights.append(weight)
        finally:
            self._active.members = members
        return torch.cat(attended, batch_axis), torch.cat(weights) if need_weights else None

    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The stock attention, with its weights packed as they were."""
        self.layer._modules["out_proj"] = self.layer.out_proj.averaged(weights)
        return super().averaged(weights)


def not_understood(name: str, module: nn.Module, why: str) -> TypeError:
    """The error that names a module and says why members cannot share it."""
    return TypeError(
        f"cannot make members of module {name or '(the module itself)'!r}: {type(module).__name__}: {why}"
    )


def rows(values: Tensor, members: Sequence[int] | Tensor | None) -> Tensor:
    """The rows of `members`; `values` itself, and no copy, where that is all of them in order; for None the
    mean of all, as one row, and for weights `(s,)` their sum so weighted."""
    if members is None:
        return values.mean(0, keepdim=True)
    if isinstance(members, Tensor):
        return torch.tensordot(members.to(values), values, dims=1).unsqueeze(0)
    if tuple(members) == tuple(range(len(values))):
        return values
    # Slices, not an index: a list of numbers would have to be copied to a GPU, which waits for it.
    return torch.cat([values[member : member + 1] for member in members])
