"""SGD with the factors of a BatchEnsemble apart, and the authors' rule for their gradients."""

import torch
from torch import nn

from ekd_train.models.batch_ensemble import factors as factors_of
from ekd_train.settings import Factors, Training


def build_optimiser(network: nn.Module, training: Training, factors: Factors | None) -> torch.optim.SGD:
    """SGD over every parameter that requires a gradient, in the groups `shared` and `factors`.

    `shared` decays toward 0 with λ = `training.weight_decay`, BatchNorm's parameters and biases
    included (Nam et al. 2022, released code). The BatchEnsemble factors r and s, `factors`, do not
    decay in the optimiser: see `adjust_factor_gradients`. A member's own bias counts as shared.

    `network` may hold a BatchEnsemble beside other modules. `factors`: how r and s learn; None only where
    there are none, else a `ValueError`.
    """
    members_own = [factor for _, factor in factors_of(network)]
    if members_own and factors is None:
        raise ValueError("the network has BatchEnsemble factors, so their settings are needed")
    own = {id(factor) for factor in members_own}
    shared = [p for p in network.parameters() if p.requires_grad and id(p) not in own]
    peak = training.learning_rate
    groups = [
        {
            "params": shared,
            "name": "shared",
            "peak_learning_rate": peak,
            "weight_decay": training.weight_decay,
        }
    ]
    if members_own and factors is not None:
        groups.append(
            {
                "params": members_own,
                "name": "factors",
                "peak_learning_rate": peak * factors.learning_rate_multiplier,
                "weight_decay": 0.0,
                "gradient_scale": len(members_own[0]) if factors.gradient_scale == "members" else 1,
                "decay_toward_one": training.weight_decay if factors.decay == "toward_one" else 0.0,
            }
        )
    optimiser = torch.optim.SGD(
        groups,
        lr=peak,
        momentum=training.momentum,
        # torch refuses Nesterov without momentum, where it would change nothing.
        nesterov=training.nesterov and training.momentum > 0,
        # One pass over memory, whatever its layout: gradients and momenta lie as their parameters do.
        fused=True,
    )
    set_learning_rate(optimiser, 1.0)
    return optimiser


def set_learning_rate(optimiser: torch.optim.SGD, factor: float, factor_warmup: float = 1.0) -> None:
    """Every group's learning rate for the next step.

    `factor`: of the schedule, for all groups; `factor_warmup`: on top of it for the BatchEnsemble factors.
    """
    for group in optimiser.param_groups:
        warmup = factor_warmup if group["name"] == "factors" else 1.0
        group["lr"] = group["peak_learning_rate"] * factor * warmup


@torch.no_grad()
def adjust_factor_gradients(optimiser: torch.optim.SGD) -> None:
    """`grad ← M · grad + λ (r - 1)` for every factor r (and s), in place; nothing without factors.

    The loss is a mean over M members, and a factor belongs to one of them: M undoes that 1/M. Decay is
    toward 1, where members agree, not 0 (Nam et al. 2022, released code: the 1/M of L_WD's second sum
    is undone likewise). `Factors.gradient_scale` and `Factors.decay` switch either part off.

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
        if group["decay_toward_one"] > 0:
            torch._foreach_add_(gradients, learning, alpha=group["decay_toward_one"])
            torch._foreach_add_(gradients, -group["decay_toward_one"])
