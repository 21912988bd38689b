"""Members that share every weight but two vectors a layer.

BatchEnsemble (Wen et al. 2020, arXiv 2002.06715) as LatentBE uses it (Nam et al. 2022,
arXiv 2206.15047): member m of a layer with weight w and bias b computes
`s_m * (w (r_m * x) + b)`, so its weight is `w * (s_m r_m^T)`. Normalisation layers are shared.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import nn

from ekd_train.models.batch_ensemble_layers import (
    BatchEnsembleAttention,
    BatchEnsembleConv,
    BatchEnsembleLayer,
    BatchEnsembleLinear,
)
from ekd_train.models.member_layers import ActiveMembers
from ekd_train.models.member_network import MemberNetwork
from ekd_train.models.subnetworks import Subnetworks

FactorInit = Literal["ones", "normal", "random_sign"]


class BatchEnsemble(MemberNetwork):
    """`num_members` members of one network; made by `to_batch_ensemble`."""


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
    subclasses of these; `MemberNetwork` says what is shared. `module` is copied and left alone. It may do
    anything that treats the images of a batch alike; with batch statistics, its layers must see the batch
    as their first axis.

    Args:
        module: maps images `(b, ...)` to `(b, c)`.
        num_members: at least 1.
        init: `ones` (LatentBE: members start identical, and part because their teachers differ),
            `normal`, N(1, init_std), or `random_sign`, -1 or 1 with equal probability.
        init_std: of `normal`.
        member_bias: a bias per member on the last Linear, added after s, in the place of the shared one
            (Nam et al. 2021, arXiv 2110.14149, as in their code).
        generator: for the two random inits; None: torch's global one.

    Raises `TypeError`: see `MemberNetwork.convert`; `ValueError`: a bad `num_members` or `init`, or
    `member_bias` without a last Linear that has a bias.

    >>> members = to_batch_ensemble(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), num_members=4)
    >>> members(torch.rand(2, 3, 2, 2)).shape
    torch.Size([4, 2, 10])
    """
    if init not in get_args(FactorInit):
        raise ValueError(f"init must be one of {', '.join(get_args(FactorInit))}, got {init!r}")

    def layer_for(name: str, layer: nn.Module, active: ActiveMembers) -> BatchEnsembleLayer:
        if isinstance(layer, nn.MultiheadAttention):
            return BatchEnsembleAttention(layer, name, num_members, active)
        if isinstance(layer, nn.Linear):
            return BatchEnsembleLinear(layer, name, num_members, active)
        return BatchEnsembleConv(layer, name, num_members, active)

    ensemble = BatchEnsemble.convert(module, num_members, layer_for)
    for _, factor in factors(ensemble):
        _init_factor(factor, init, init_std, generator)
    if member_bias:
        linears = [layer for layer in ensemble.layers() if isinstance(layer, BatchEnsembleLinear)]
        if not linears or linears[-1].layer.bias is None:
            raise ValueError("member_bias needs a last Linear with a bias that it can be averaged into")
        linears[-1].add_member_bias()
    return ensemble


def average_members(module: Subnetworks) -> nn.Module:
    """The plain network of the mean factors: the original class, state-dict keys and shapes.

    Every weight becomes `w * (mean(s) mean(r)^T)`, the product of the means (LatentBE, section 3),
    a bias `mean(s) * b`, or the mean of the member biases, so that the result equals the
    BatchEnsemble whose every factor is set to its mean over the members. `module` is left alone.

    Raises `TypeError` for anything but a `BatchEnsemble`.

    >>> plain = average_members(to_batch_ensemble(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), 4))
    >>> plain(torch.rand(2, 3, 2, 2)).shape
    torch.Size([2, 10])
    """
    if not isinstance(module, BatchEnsemble):
        raise TypeError(f"average_members takes a BatchEnsemble, got {type(module).__name__}")
    return module.averaged()


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
