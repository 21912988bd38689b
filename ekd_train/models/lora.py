"""Members that share every weight but a low-rank change of each (LoRA-Ensemble, arXiv 2405.14438).

Member m of a layer with weight W computes with `W + B_m A_m`, of rank r at most, and has a head of its own:
its change of the last Linear is of full rank. LoRA (Hu et al. 2021, arXiv 2106.09685) starts with B = 0, so
that members start as the plain network, and part because their A differ and their teachers do.
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ekd_train.models.member_layers import ActiveMembers, MemberAttention, MemberLayer, rows
from ekd_train.models.member_network import MemberNetwork

LoraInit = Literal["xavier", "normal"]


class LoraMembers(MemberNetwork):
    """`num_members` members of one network; made by `to_lora`."""

    frozen: bool = False
    """Whether all that is shared stays as it is."""

    def train(self, mode: bool = True) -> "LoraMembers":
        """As any module's; statistics of what is frozen are not measured again."""
        super().train(mode)
        for layer in self.modules() if self.frozen else ():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self


class LoraLayer(MemberLayer):
    """One layer whose weights, bias left alone, are `W + B_m A_m` for member m.

    Of a weight `(out, ...)`, `NAME_a` is `(s, rank, values of an output)` and `NAME_b` `(s, out, rank)`;
    ranks that a weight cannot have are lowered to those that it can.
    """

    def __init__(
        self, layer: nn.Module, name: str, num_members: int, rank: int, active: ActiveMembers
    ) -> None:
        super().__init__(layer, name, active)
        self.changed = [
            key
            for key, own in layer.named_parameters(recurse=False)
            if key.endswith("weight") and own.dim() > 1
        ]
        for key in self.changed:
            weight = getattr(layer, key)
            outputs, inputs = len(weight), weight[0].numel()
            possible = min(rank, outputs, inputs)
            self.register_parameter(f"{key}_a", nn.Parameter(weight.new_empty(num_members, possible, inputs)))
            self.register_parameter(
                f"{key}_b", nn.Parameter(weight.new_zeros(num_members, outputs, possible))
            )

    @torch.no_grad()
    def draw(self, init: LoraInit, generator: torch.Generator | None) -> None:
        """Draw every A anew: N(0, 1 / inputs), or Xavier's uniform of the same weight."""
        for key in self.changed:
            a = getattr(self, f"{key}_a")
            if init == "normal":
                a.normal_(0, a.shape[2] ** -0.5, generator=generator)
            else:
                bound = math.sqrt(6 / (a.shape[1] + a.shape[2]))
                a.uniform_(-bound, bound, generator=generator)

    def _values(self, members: Sequence[int] | Tensor | None) -> dict[str, Tensor]:
        values = {}
        for key in self.changed:
            weight, a, b = (getattr(self.layer, key), getattr(self, f"{key}_a"), getattr(self, f"{key}_b"))
            # The mean of the products, not the product of the means.
            mean = members is None or isinstance(members, Tensor)
            change = rows(b @ a, members) if mean else rows(b, members) @ rows(a, members)
            values[key] = weight + change.view(-1, *weight.shape)
        return values


class LoraAttention(MemberAttention, LoraLayer):
    """`nn.MultiheadAttention`; where queries, keys and values are packed, so are their changes."""

    def __init__(
        self, layer: nn.MultiheadAttention, name: str, num_members: int, rank: int, active: ActiveMembers
    ) -> None:
        super().__init__(layer, name, num_members, rank, active)
        layer._modules["out_proj"] = LoraLayer(layer.out_proj, f"{name}.out_proj", num_members, rank, active)


class OwnHead(MemberLayer):
    """The last Linear, whose weight and bias are each member's own: `W + D_m` and `b + d_m`, from 0."""

    def __init__(self, layer: nn.Module, name: str, num_members: int, active: ActiveMembers) -> None:
        super().__init__(layer, name, active)
        for key, own in layer.named_parameters(recurse=False):
            self.register_parameter(f"{key}_own", nn.Parameter(own.new_zeros(num_members, *own.shape)))

    def _values(self, members: Sequence[int] | Tensor | None) -> dict[str, Tensor]:
        return {
            key: own + rows(getattr(self, f"{key}_own"), members)
            for key, own in self.layer.named_parameters(recurse=False)
        }


def to_lora(
    module: nn.Module,
    num_members: int,
    rank: int,
    init: LoraInit = "xavier",
    *,
    train_base: bool = True,
    head: str | None = None,
    generator: torch.Generator | None = None,
) -> LoraMembers:
    """`num_members` members of `module` that differ by changes of rank `rank` and by their heads.

    Every convolution, Linear and `nn.MultiheadAttention` has changes (the paper's: the projections of
    attentions alone); `MemberNetwork` says what is shared. `averaged()` is the plain network of
    `W + (1/s) Σ B_m A_m`, the mean of the members' weights. `module` is copied and left alone.

    Args:
        module: maps images `(b, ...)` to `(b, c)`.
        num_members: at least 1.
        rank: at least 1; 4 to 16 in the paper.
        init: how A starts; B starts at 0.
        train_base: False: all that is shared, normalisations included, is left as it is.
        head: name of the layer that makes the logits (`head_of`); None: the last Linear that `module` has.
        generator: of A; None: torch's global one.

    Raises `TypeError`: see `MemberNetwork.convert`; `ValueError`: a bad `num_members`, `rank` or `init`.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if init not in get_args(LoraInit):
        raise ValueError(f"init must be one of {', '.join(get_args(LoraInit))}, got {init!r}")
    if head is None:
        head = next(
            reversed([n for n, layer in module.named_modules() if isinstance(layer, nn.Linear)]), None
        )

    def layer_for(name: str, layer: nn.Module, active: ActiveMembers) -> MemberLayer:
        if isinstance(layer, nn.MultiheadAttention):
            return LoraAttention(layer, name, num_members, rank, active)
        if name == head:
            return OwnHead(layer, name, num_members, active)
        return LoraLayer(layer, name, num_members, rank, active)

    members = LoraMembers.convert(module, num_members, layer_for)
    if not train_base:
        for parameter in members.parameters():
            parameter.requires_grad_(False)
        for _, parameter in own_parameters(members):
            parameter.requires_grad_(True)
    for layer in members.layers():
        if isinstance(layer, LoraLayer):
            layer.draw(init, generator)
    members.frozen = not train_base
    return members.train(members.training)


@torch.no_grad()
def head_of(module: nn.Module, image_shape: Sequence[int]) -> str | None:
    """The name of the Linear or convolution that a network calls last; None if it calls none.

    >>> reversed_order = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> head_of(reversed_order, (1, 2, 2))
    '1'
    """
    called: list[str] = []
    tried = copy.deepcopy(module).eval()
    for name, layer in tried.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda *_, name=name: called.append(name))
    device = next(tried.parameters()).device
    tried(torch.zeros(1, *image_shape, device=device))
    return called[-1] if called else None


def own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of all that is a LoRA member's own, each `(s, ...)`."""
    return [
        (f"{name}.{key}", parameter)
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer | OwnHead)
        for key, parameter in layer.named_parameters(recurse=False)
    ]
