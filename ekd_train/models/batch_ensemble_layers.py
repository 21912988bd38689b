"""The layers of BatchEnsemble: those of a network that hold a weight, each with its factors."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available

from ekd_train.models.member_layers import CONVOLUTIONS, ActiveMembers, MemberAttention, MemberLayer, rows

_CROSSOVER = 4
"""Input values per member's weight below which scaling activations is the faster; measured on a CPU
with 3x3 convolutions, forward and backward."""


class BatchEnsembleLayer(MemberLayer):
    """One layer whose weight `w` member m uses as `w * (s_m r_m^T)`, and its bias as `s_m * b`.

    r `(s, in)` and s `(s, out)` are the factors, 1 to begin with.
    """

    r: nn.Parameter
    s: nn.Parameter
    member_bias: nn.Parameter | None

    def __init__(
        self, layer: nn.Module, name: str, sizes: tuple[int, int], num_members: int, active: ActiveMembers
    ) -> None:
        super().__init__(layer, name, active)
        own = next(layer.parameters(recurse=False))
        self.r = nn.Parameter(own.new_ones(num_members, sizes[0]))
        self.s = nn.Parameter(own.new_ones(num_members, sizes[1]))
        self.register_parameter("member_bias", None)


class _OneWeight(BatchEnsembleLayer):
    """A layer that is linear in its input, or made of one that is.

    Scaling is memory traffic. Where maps are large, each member's *weights* are formed; where large
    weights meet few numbers, as in a head, *activations* are scaled around one call, if the class is
    torch's own.
    """

    def add_member_bias(self) -> None:
        """Puts a bias per member `(s, out)`, which s does not scale, in the place of the shared one.

        It starts as that was; the shared bias is 0 from then on, and does not learn.
        """
        shared = self.layer.bias
        self.member_bias = nn.Parameter(shared.detach().expand_as(self.s).clone())
        with torch.no_grad():
            shared.requires_grad_(False).zero_()

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """`x` holds the active members' rows one member after the other, and so does the result."""
        members = self._checked(len(x))
        few = x.numel() < _CROSSOVER * len(members) * self.layer.weight.numel()
        if few and type(self.layer) in (nn.Linear, *CONVOLUTIONS):
            return self._scale_activations(x, members, *others)
        return super().forward(x, *others)

    def _scale_activations(self, x: Tensor, members: Sequence[int], *others: Any) -> Tensor:
        r, s = rows(self.r, members), rows(self.s, members)
        tiling = (len(r), len(x) // len(r))  # not -1, which an empty batch leaves open
        device = x.device.type
        if x.dtype == torch.float32 and is_autocast_available(device) and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        # Factors in the precision of the maps: by float32 ones they would become float32 maps.
        x = (x.unflatten(0, tiling) * self._against_rows(r.to(x.dtype), x.dim())).flatten(0, 1)
        y = self.layer(x, *others)
        y = y.unflatten(0, tiling) * self._against_rows(s.to(y.dtype), y.dim())
        if self.member_bias is not None:
            bias = rows(self.member_bias, members).to(y.dtype)
            y = y + self._against_rows(bias, x.dim())
        return y.flatten(0, 1)

    def _values(self, members: Sequence[int] | Tensor | None) -> dict[str, Tensor]:
        r, s = rows(self.r, members), rows(self.s, members)
        values = {"weight": self._weights(r, s)}
        if self.layer.bias is not None:
            bias = s * self.layer.bias
            values["bias"] = bias if self.member_bias is None else bias + rows(self.member_bias, members)
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

    def __init__(self, layer: Any, name: str, num_members: int, active: ActiveMembers) -> None:
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

    def __init__(self, layer: nn.Linear, name: str, num_members: int, active: ActiveMembers) -> None:
        super().__init__(layer, name, (layer.in_features, layer.out_features), num_members, active)

    def _weights(self, r: Tensor, s: Tensor) -> Tensor:
        return _scaled(self.layer.weight, r, s)

    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        return values.view(len(values), *[1] * (dims - 1), -1)


class BatchEnsembleAttention(MemberAttention, BatchEnsembleLayer):
    """`nn.MultiheadAttention`, whose queries, keys and values are three linear layers, mostly packed in one.

    r `(s, embed_dim + kdim + vdim)` and s `(s, 3 embed_dim)` hold the factors of the three one after the
    other. The output projection is a `BatchEnsembleLinear` within.
    """

    def __init__(
        self, layer: nn.MultiheadAttention, name: str, num_members: int, active: ActiveMembers
    ) -> None:
        sizes = layer.embed_dim + layer.kdim + layer.vdim, 3 * layer.embed_dim
        super().__init__(layer, name, sizes, num_members, active)
        layer._modules["out_proj"] = BatchEnsembleLinear(
            layer.out_proj, f"{name}.out_proj", num_members, active
        )

    def _values(self, members: Sequence[int] | Tensor | None) -> dict[str, Tensor]:
        r, s = rows(self.r, members), rows(self.s, members)
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        packed = self.layer.in_proj_weight
        weights = [getattr(self.layer, name) for name in names] if packed is None else packed.chunk(3)
        three = r.split([weight.shape[1] for weight in weights], 1), s.chunk(3, 1)
        own = [_scaled(*each) for each in zip(weights, *three, strict=True)]
        values = (
            dict(zip(names, own, strict=True)) if packed is None else {"in_proj_weight": torch.cat(own, 1)}
        )
        if self.layer.in_proj_bias is not None:
            values["in_proj_bias"] = s * self.layer.in_proj_bias
        return values


def _scaled(weight: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """`weight (out, in)` of each member: `(s, out, in)`."""
    return weight * (s[:, :, None] * r[:, None, :])
