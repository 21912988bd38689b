"""Members that share every weight but two vectors a layer.

BatchEnsemble (Wen et al. 2020, arXiv 2002.06715) as LatentBE uses it (Nam et al. 2022,
arXiv 2206.15047): member m of a layer with weight w and bias b computes
`s_m * (w (r_m * x) + b)`, so its weight is `w * (s_m r_m^T)`. Normalisation layers are shared.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ekd_train.models.batch_ensemble_layers import (
    ActiveMembers,
    BatchEnsembleConv2d,
    BatchEnsembleLayer,
    BatchEnsembleLinear,
    check_supported,
)
from ekd_train.models.replacement import replace_modules
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm

FactorInit = Literal["ones", "normal", "random_sign"]


class BatchEnsemble(Subnetworks):
    """`num_members` members of one network; made by `to_batch_ensemble`."""

    def __init__(self, shared: nn.Module, num_members: int, active: ActiveMembers) -> None:
        super().__init__()
        self.shared = shared
        self.num_members = num_members
        self._active = active

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)`; see `Subnetworks.forward`.

        Members are folded into the batch member-major: rows `[m b, (m + 1) b)` are the m-th of the
        chosen members, so that batch statistics in training are over all of them.
        """
        chosen = self.chosen(members)
        self._active.members = chosen
        tiled = images.repeat(len(chosen), *[1] * (images.dim() - 1))
        return self.shared(tiled).unflatten(0, (len(chosen), len(images)))

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

    Works on any module whose parameters are those of Conv2d (grouped too, any padding mode),
    Linear, BatchNorm, LayerNorm and GroupNorm, and ConvNeXt's layer scale. `module` is copied and
    left alone. It may do anything between its layers that treats the images of a batch alike.

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
        TypeError: a module inside has parameters of a kind that is not understood; the error names
            it and its type.
        ValueError: a bad `num_members` or `init`, or `member_bias` without a last Linear that has a bias.
    """
    if num_members < 1:
        raise ValueError(f"num_members must be at least 1, got {num_members}")
    if init not in get_args(FactorInit):
        raise ValueError(f"init must be one of {', '.join(get_args(FactorInit))}, got {init!r}")
    active = ActiveMembers()

    def layer_for(name: str, layer: nn.Module) -> nn.Module | None:
        check_supported(name, layer)
        if type(layer) is nn.Conv2d:
            return BatchEnsembleConv2d(layer, num_members, active)
        if type(layer) is nn.Linear:
            return BatchEnsembleLinear(layer, num_members, active)
        return None

    ensemble = BatchEnsemble(replace_modules(copy.deepcopy(module), layer_for), num_members, active)
    for _, factor in factors(ensemble):
        _init_factor(factor, init, init_std, generator)
    if member_bias:
        linears = [layer for layer in ensemble.modules() if isinstance(layer, BatchEnsembleLinear)]
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


@torch.no_grad()
def _init_factor(factor: nn.Parameter, init: str, std: float, generator: torch.Generator | None) -> None:
    if init == "normal":
        factor.normal_(1.0, std, generator=generator)
    elif init == "random_sign":
        factor.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
