"""The optimiser with the factors of a BatchEnsemble apart, and the authors' rule for their gradients."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.models.batch_ensemble import factors as factors_of
from ekd_train.models.layers import depths
from ekd_train.settings import Factors, Training


def build_optimiser(network: nn.Module, training: Training, factors: Factors | None) -> torch.optim.Optimizer:
    """The optimiser over every parameter that requires a gradient, in groups named `shared` and `factors`.

    `shared` decays toward 0 with λ = `training.weight_decay`, BatchNorm's parameters and biases
    included (Nam et al. 2022, released code) unless `training.optimiser.decay` says otherwise. The
    BatchEnsemble factors r and s, `factors`, do not decay in the optimiser: see
    `adjust_factor_gradients`. A member's own bias counts as shared. There is one group of either name
    for all parameters that learn and decay alike.

    `network` may hold a BatchEnsemble beside other modules. `factors`: how r and s learn; None only where
    there are none, else a `ValueError`, as for an optimiser that is not installed.
    """
    members_own = [factor for _, factor in factors_of(network)]
    if members_own and factors is None:
        raise ValueError("the network has BatchEnsemble factors, so their settings are needed")
    own = {id(factor) for factor in members_own}
    after = depths(network) if training.layer_decay < 1 else {}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        group: dict[str, Any] = {
            "name": "shared",
            "peak_learning_rate": training.learning_rate * training.layer_decay ** after.get(name, 0),
            "weight_decay": training.weight_decay if _decays(name, parameter, training) else 0.0,
        }
        if id(parameter) in own and factors is not None:
            group |= {
                "name": "factors",
                "peak_learning_rate": group["peak_learning_rate"] * factors.learning_rate_multiplier,
                "weight_decay": 0.0,
                "gradient_scale": len(parameter) if factors.gradient_scale == "members" else 1,
                "decay_toward_one": training.weight_decay if factors.decay == "toward_one" else 0.0,
            }
        groups.setdefault(tuple(group.items()), {"params": [], **group})["params"].append(parameter)
    ordered = sorted(groups.values(), key=lambda group: group["name"] == "factors")
    optimiser = _optimiser(ordered, training)
    set_learning_rate(optimiser, 1.0)
    return optimiser


def check_optimiser(training: Training) -> None:
    """Raise `ValueError` for an optimiser that is not installed."""
    if training.optimiser.name == "lamb" and find_spec("timm") is None:
        raise ValueError("training.optimiser.name=lamb is timm's: pip install 'ekd[timm]', or use adamw")


def _decays(name: str, parameter: Tensor, training: Training) -> bool:
    # A member's biases have an axis for the members.
    return training.optimiser.decay == "all" or (parameter.ndim > 1 and not name.endswith("bias"))


def _optimiser(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    settings, peak = training.optimiser, training.learning_rate
    check_optimiser(training)
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=peak,
            momentum=training.momentum,
            # torch refuses Nesterov without momentum, where it would change nothing.
            nesterov=training.nesterov and training.momentum > 0,
            # One pass over memory, whatever its layout: gradients and momenta lie as their parameters do.
            fused=True,
        )
    adam: dict[str, Any] = {"lr": peak, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **adam)
    # timm is an extra. Its own clipping is off: `training.clip_norm` is for every optimiser.
    lamb: torch.optim.Optimizer = import_module("timm.optim").Lamb(groups, max_grad_norm=None, **adam)
    return lamb


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float, factor_warmup: float = 1.0) -> None:
    """Every group's learning rate for the next step.

    `factor`: of the schedule, for all groups; `factor_warmup`: on top of it for the BatchEnsemble factors.
    """
    for group in optimiser.param_groups:
        warmup = factor_warmup if group["name"] == "factors" else 1.0
        group["lr"] = group["peak_learning_rate"] * factor * warmup


def clip_gradients(optimiser: torch.optim.Optimizer, norm: float) -> None:
    """Shorten the gradient over all parameters to Euclidean length `norm`, in place, if it is longer.

    Call it on the gradient of the loss, before `adjust_factor_gradients`.
    """
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], norm)


@torch.no_grad()
def adjust_factor_gradients(optimiser: torch.optim.Optimizer) -> None:
    """`grad ← M · grad + λ (r - 1)` for every factor r (and s), in place; nothing without factors.

    The loss is a mean over M members, and a factor belongs to one of them: M undoes that 1/M. Decay is
    toward 1, where members agree, not 0 (Nam et al. 2022, released code: the 1/M of L_WD's second sum
    is undone likewise). `Factors.gradient_scale` and `Factors.decay` switch either part off. Of an
    optimiser that decays beside the gradient, factors do too: `r ← r - lr λ (r - 1)`.

    Call it once a step, on complete gradients, between `backward` and `optimiser.step`.
    """
    for group in optimiser.param_groups:
        if group["name"] != "factors":
            continue
        learning = [factor for factor in group["params"] if factor.grad is not None]
        gradients = [factor.grad for factor in learning]
        if not learning:
            continue
        if group["gradient_scale"] != 1:
            torch._foreach_mul_(gradients, float(group["gradient_scale"]))
        if group["decay_toward_one"] > 0 and isinstance(optimiser, torch.optim.SGD):
            torch._foreach_add_(gradients, learning, alpha=group["decay_toward_one"])
            torch._foreach_add_(gradients, -group["decay_toward_one"])
        elif group["decay_toward_one"] > 0:
            kept = 1 - group["lr"] * group["decay_toward_one"]
            torch._foreach_mul_(learning, kept)
            torch._foreach_add_(learning, 1 - kept)
