"""The layers of BatchEnsemble, and which modules it understands."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_SHARED_LAYERS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_SHARED_PARAMETERS = {"torchvision.models.convnext.CNBlock": {"layer_scale"}}
"""Elementwise parameters that members share, held by modules that are not layers themselves. By name of
the class: torchvision takes longer to import than torch itself."""

_CROSSOVER = 4
"""Input values per member's weight below which scaling activations is the faster; measured on a CPU
with 3x3 convolutions, forward and backward."""


@dataclass
class ActiveMembers:
    """Whom the batch at hand is tiled for; all layers of one BatchEnsemble hold the same object."""

    members: tuple[int, ...] = ()


class BatchEnsembleLayer(nn.Module, ABC):
    """One layer whose weight `w` member m uses as `w * (s_m r_m^T)`, and its bias as `s_m * b`.

    r `(s, in)` and s `(s, out)` are the factors, 1 to begin with. Scaling is memory traffic, so the
    forward scales what is smaller: where maps are large it forms each member's *weights* and calls
    the layer member by member; where large weights meet few numbers, as in a head, it scales the
    *activations* around one call.
    """

    layer: nn.Conv2d | nn.Linear
    r: nn.Parameter
    s: nn.Parameter
    member_bias: nn.Parameter | None

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, sizes: tuple[int, int], num_members: int, active: ActiveMembers
    ) -> None:
        super().__init__()
        self.layer = layer
        self.r = nn.Parameter(layer.weight.new_ones(num_members, sizes[0]))
        self.s = nn.Parameter(layer.weight.new_ones(num_members, sizes[1]))
        self.register_parameter("member_bias", None)
        self._active = active

    def add_member_bias(self) -> None:
        """Adds a bias per member `(s, out)`, from 0, that s does not scale."""
        self.member_bias = nn.Parameter(torch.zeros_like(self.s))

    def forward(self, x: Tensor) -> Tensor:
        """`x` holds the active members' rows one member after the other, and so does the result."""
        members = self._active.members
        r, s = _rows(self.r, members), _rows(self.s, members)
        added = None if self.member_bias is None else _rows(self.member_bias, members)
        if x.numel() < _CROSSOVER * len(members) * self.layer.weight.numel():
            return self._scale_activations(x, r, s, added)
        bias = None if self.layer.bias is None else s * self.layer.bias
        if added is not None:
            bias = added if bias is None else bias + added
        biases = [None] * len(members) if bias is None else bias.unbind(0)
        weights = self._member_weights(r, s).unbind(0)
        parts = zip(x.chunk(len(members)), weights, biases, strict=True)
        return torch.cat([self._apply_layer(part, weight, bias) for part, weight, bias in parts])

    def _scale_activations(self, x: Tensor, r: Tensor, s: Tensor, added: Tensor | None) -> Tensor:
        tiling = (len(r), len(x) // len(r))  # not -1, which an empty batch leaves open
        x = (x.unflatten(0, tiling) * self._against_rows(r, x.dim())).flatten(0, 1)
        y = self.layer(x)
        y = y.unflatten(0, tiling) * self._against_rows(s, y.dim())
        if added is not None:
            y = y + self._against_rows(added, x.dim())
        return y.flatten(0, 1)

    @torch.no_grad()
    def averaged(self) -> nn.Conv2d | nn.Linear:
        """The plain layer of the mean factors: a changed `layer`, so this module is spent."""
        r, s = self.r.mean(0, keepdim=True), self.s.mean(0, keepdim=True)
        layer = self.layer
        layer.weight = nn.Parameter(self._member_weights(r, s)[0], layer.weight.requires_grad)
        if layer.bias is not None:
            bias = s[0] * layer.bias
            if self.member_bias is not None:
                bias = bias + self.member_bias.mean(0)
            layer.bias = nn.Parameter(bias, layer.bias.requires_grad)
        return layer

    @abstractmethod
    def _member_weights(self, r: Tensor, s: Tensor) -> Tensor:
        """Weights `(s, *weight.shape)`."""

    @abstractmethod
    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight and bias."""

    @abstractmethod
    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        """`values (s, channel)` shaped to broadcast against activations `(s, b, ...)` of `dims + 1` axes."""


class BatchEnsembleConv2d(BatchEnsembleLayer):
    """A convolution whose factors r `(s, in_channels)` and s `(s, out_channels)` scale channels."""

    layer: nn.Conv2d

    def __init__(self, layer: nn.Conv2d, num_members: int, active: ActiveMembers) -> None:
        super().__init__(layer, (layer.in_channels, layer.out_channels), num_members, active)

    def _member_weights(self, r: Tensor, s: Tensor) -> Tensor:
        groups, weight = self.layer.groups, self.layer.weight
        # Output channel o reads the input channels of its own group only.
        r_read = r.unflatten(1, (groups, -1)).repeat_interleave(weight.shape[0] // groups, dim=1)
        return weight * (s[:, :, None] * r_read)[..., None, None]

    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.layer._conv_forward(x, weight, bias)  # knows the padding modes

    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        return values[:, None, :, None, None]


class BatchEnsembleLinear(BatchEnsembleLayer):
    """A linear layer whose factors r `(s, in_features)` and s `(s, out_features)` scale features."""

    layer: nn.Linear

    def __init__(self, layer: nn.Linear, num_members: int, active: ActiveMembers) -> None:
        super().__init__(layer, (layer.in_features, layer.out_features), num_members, active)

    def _member_weights(self, r: Tensor, s: Tensor) -> Tensor:
        return self.layer.weight * (s[:, :, None] * r[:, None, :])

    def _apply_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _against_rows(self, values: Tensor, dims: int) -> Tensor:
        return values.view(len(values), *[1] * (dims - 1), -1)


def check_supported(name: str, module: nn.Module) -> None:
    """Raises `TypeError` when `module` itself (not its children) holds parameters not understood."""
    own = {key for key, parameter in module._parameters.items() if parameter is not None}
    if not own or isinstance(module, _SHARED_LAYERS):
        return
    # A subclass, or a layer whose weight is computed from other parameters, may do something else.
    if type(module) in (nn.Conv2d, nn.Linear) and own <= {"weight", "bias"} and "weight" in own:
        return
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if own <= _SHARED_PARAMETERS.get(kind, set()):
        return
    raise TypeError(
        f"cannot make a BatchEnsemble of module {name or '(the module itself)'!r}: "
        f"{type(module).__name__} has parameters of its own ({', '.join(sorted(own))}) "
        "that are not understood; supported are Conv2d, Linear, BatchNorm, LayerNorm and GroupNorm"
    )


def _rows(values: Tensor, members: Sequence[int]) -> Tensor:
    """The rows of `members`; `values` itself, and no copy, where that is all of them in order."""
    if tuple(members) == tuple(range(len(values))):
        return values
    return values[list(members)]
