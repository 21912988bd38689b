"""Members that share every weight but two vectors a layer.

BatchEnsemble (Wen et al. 2020, arXiv 2002.06715) as LatentBE uses it (Nam et al. 2022,
arXiv 2206.15047): member m of a layer with weight w and bias b computes
`s_m * (w (r_m * x) + b)`, so its weight is `w * (s_m r_m^T)`. Normalisation layers are shared.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ekd_train.models.batch_ensemble_attention import BatchEnsembleAttention
from ekd_train.models.batch_ensemble_layers import (
    CONVOLUTIONS,
    ActiveMembers,
    BatchEnsembleConv,
    BatchEnsembleLayer,
    BatchEnsembleLinear,
    not_understood,
)
from ekd_train.models.replacement import replace_modules
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm
from ekd_train.models.unfused_attention import unfused_attention

FactorInit = Literal["ones", "normal", "random_sign"]

_KINDS: dict[Any, Any] = {
    CONVOLUTIONS: BatchEnsembleConv,
    nn.Linear: BatchEnsembleLinear,
    nn.MultiheadAttention: BatchEnsembleAttention,
}
_REFUSED = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, BatchEnsembleLayer)


class BatchEnsemble(Subnetworks):
    """`num_members` members of one network; made by `to_batch_ensemble`.

    Where batch statistics are kept, they are over all members' rows: the layers share one batch, into
    which members are folded member-major: rows `[m b, (m + 1) b)` are the m-th of the chosen members.
    All other networks are computed member by member, whatever they do with the axes of their batch.
    """

    def __init__(self, shared: nn.Module, num_members: int, active: ActiveMembers) -> None:
        super().__init__()
        self.shared = shared
        self.num_members = num_members
        self._active = active
        self._in_turn = not any(
            name.split(".")[-1].startswith("running_") for name, _ in shared.named_buffers()
        )

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)`; see `Subnetworks.forward`."""
        chosen = self.chosen(members)
        with unfused_attention():
            if self._in_turn:
                return torch.stack([self._member(member, images) for member in chosen])
            self._active.members, self._active.images = chosen, len(images)
            tiled = images.repeat(len(chosen), *[1] * (images.dim() - 1))
            return self.shared(tiled).unflatten(0, (len(chosen), len(images)))

    def _member(self, member: int, images: Tensor) -> Tensor:
        self._active.members = (member,)
        try:
            return self.shared(images)
        finally:
            self._active.members = ()

    def averaged(self) -> nn.Module:
        """`average_members` of this module."""
        return average_members(self)


def to_batch_ensemble(
    module: nn.Module,
    num_members: int,
    init: FactorInit = "ones",
    *,
    init_std: float = 0.5,
    member_bias: bool = False,
    generator: torch.Generator | None = None,
) -> BatchEnsemble:
    """A BatchEnsemble of `num_members` members that starts from the weights of `module`.

    Factors go to every convolution, plain or transposed, every Linear and `nn.MultiheadAttention`, and
    subclasses of these. All other parameters are shared by the members: normalisations, layer scales,
    class tokens, position tables. `module` is copied and left alone. It may do anything that treats the
    images of a batch alike; with batch statistics, its layers must see the batch as their first axis.

    Args:
        module: maps images `(b, ...)` to `(b, c)`.
        num_members: at least 1.
        init: `ones` (LatentBE: members start identical, and part because their teachers differ),
            `normal`, N(1, init_std), or `random_sign`, -1 or 1 with equal probability.
        init_std: of `normal`.
        member_bias: a bias per member on the last Linear, from 0, added after s (Nam et al. 2021,
            arXiv 2110.14149).
        generator: for the two random inits; None: torch's global one.

    Raises:
        TypeError: a module inside has weights of a kind that is not understood; the error names it and
            its type. Raised by the first forward too, where batch statistics need all members at once and
            a layer is used otherwise than on the batch.
        ValueError: a bad `num_members` or `init`, or `member_bias` without a last Linear that has a bias.
    """
    if num_members < 1:
        raise ValueError(f"num_members must be at least 1, got {num_members}")
    if init not in get_args(FactorInit):
        raise ValueError(f"init must be one of {', '.join(get_args(FactorInit))}, got {init!r}")
    active = ActiveMembers()
    ensemble = BatchEnsemble(
        replace_modules(
            copy.deepcopy(module),
            lambda name, layer: _layer_with_factors(name, layer, num_members, active),
        ),
        num_members,
        active,
    )
    layers = _layers(ensemble)
    for _, factor in factors(ensemble):
        _init_factor(factor, init, init_std, generator)
    if member_bias:
        linears = [layer for layer in layers if isinstance(layer, BatchEnsembleLinear)]
        if not linears or linears[-1].layer.bias is None:
            raise ValueError("member_bias needs a last Linear with a bias that it can be averaged into")
        linears[-1].add_member_bias()
    return ensemble


def average_members(module: Subnetworks) -> nn.Module:
    """The plain network of the mean factors: the original class, state-dict keys and shapes.

    Every weight becomes `w * (mean(s) mean(r)^T)`, the product of the means (LatentBE, section 3),
    a bias `mean(s) * b` plus the mean of the member biases, so that the result equals the
    BatchEnsemble whose every factor is set to its mean over the members. BatchNorm statistics are
    copied, and synchronised BatchNorms come out as ordinary ones. `module` is left alone.

    Raises `TypeError` for anything but a `BatchEnsemble`.
    """
    if not isinstance(module, BatchEnsemble):
        raise TypeError(f"average_members takes a BatchEnsemble, got {type(module).__name__}")
    return replace_modules(
        from_synchronised_batch_norm(module.shared),
        lambda _, layer: layer.averaged() if isinstance(layer, BatchEnsembleLayer) else None,
    )


def factors(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of every factor: r `(s, in)` and s `(s, out)` of each layer, in order."""
    for name, layer in module.named_modules():
        if isinstance(layer, BatchEnsembleLayer):
            yield f"{name}.r", layer.r
            yield f"{name}.s", layer.s


@torch.no_grad()
def factor_spread(module: nn.Module) -> dict[str, float]:
    """`{r,s}_{min,max,mean,std}` over all layers and members.

    The average is trustworthy while factors stay near 1: at factors of about -2 to 2 it has been
    seen to fall to chance. Raises `ValueError` when `module` has no factors.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BatchEnsembleLayer)]
    if not layers:
        raise ValueError("no BatchEnsemble layer in this module")
    spread: dict[str, float] = {}
    for kind in ("r", "s"):
        values = torch.cat([getattr(layer, kind).flatten() for layer in layers])
        spread |= {
            f"{kind}_min": values.min().item(),
            f"{kind}_max": values.max().item(),
            f"{kind}_mean": values.mean().item(),
            f"{kind}_std": values.std(correction=0).item(),
        }
    return spread


def _layer_with_factors(
    name: str, module: nn.Module, num_members: int, active: ActiveMembers
) -> BatchEnsembleLayer | None:
    """`module` with factors; None for one that members share as it is, its children apart.

    Raises `TypeError` for a module whose weights are not understood.
    """
    own = {key for key, parameter in module._parameters.items() if parameter is not None}
    for kinds, layer_kind in _KINDS.items():
        if isinstance(module, kinds):
            if own & {"weight", "in_proj_weight", "q_proj_weight"}:
                return layer_kind(module, name, num_members, active)
            raise not_understood(name, module, "its weight is computed from other parameters")
    if isinstance(module, _REFUSED):
        raise not_understood(name, module, "its weights are of a kind that has no factors")
    return None


def _layers(ensemble: BatchEnsemble) -> list[BatchEnsembleLayer]:
    """The layers with factors, at least one; raises `TypeError` if a weight of theirs is another's too."""
    layers = [module for module in ensemble.modules() if isinstance(module, BatchEnsembleLayer)]
    uses = Counter(own for module in ensemble.modules() for own in module._parameters.values())
    for layer in layers:
        if any(uses[own] > 1 for own in layer.layer.parameters(recurse=False)):
            raise layer.refused("another module has the same weight, which factors would make two")
    if not layers:
        raise TypeError(
            "cannot make a BatchEnsemble of a network without convolutions, Linears and attention"
        )
    return layers


@torch.no_grad()
def _init_factor(factor: nn.Parameter, init: str, std: float, generator: torch.Generator | None) -> None:
    if init == "normal":
        factor.normal_(1.0, std, generator=generator)
    elif init == "random_sign":
        factor.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
