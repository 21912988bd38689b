"""Learning-rate factors over training, one per optimiser step. Pure Python."""

import math

from ekd_train.settings import Schedule


def learning_rate_factor(schedule: Schedule, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What the peak learning rate is multiplied by at an optimiser step, counted from 0 on; in [0, 1].

    All kinds begin with a linear warm-up from `warmup_start` to 1 over `warmup_epochs`. Then `cosine`
    falls to 0 at the end of training (LatentBE's recipe); `flat_linear` stays at 1 until the fraction
    `flat_until` of training, falls linearly to `final_factor` at `decay_until` and stays there (the ODS
    paper's recipe); `steps` is multiplied by `step_factor` at each of `decay_at`; `constant` stays at 1.
    A warm-up that reaches past the beginning of the linear decay never lifts the rate above it.

    >>> recipe = Schedule(kind="cosine", warmup_epochs=5)
    >>> [learning_rate_factor(recipe, step=s, steps_per_epoch=10, epochs=25) for s in (0, 25, 50, 150)]
    [0.0, 0.5, 1.0, 0.5]
    """
    total = steps_per_epoch * epochs
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    warmup = linear_warmup(step, warmup_steps=warmup_steps, start=schedule.warmup_start)
    match schedule.kind:
        case "constant":
            return warmup
        case "cosine":
            return warmup if step < warmup_steps else _cosine(step - warmup_steps, total - warmup_steps)
        case "flat_linear":
            return min(warmup, _flat_linear(schedule, step / total))
        case "steps":
            passed = sum(step >= fraction * total for fraction in schedule.decay_at)
            return warmup * schedule.step_factor**passed


def linear_warmup(step: int, *, warmup_steps: float, start: float = 0.0) -> float:
    """From `start` at step 0 linearly to 1 at `warmup_steps`, then 1; always 1 without a warm-up.

    >>> [linear_warmup(step, warmup_steps=4) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    if step >= warmup_steps:
        return 1.0
    return start + (1.0 - start) * step / warmup_steps


def _cosine(step: float, steps: float) -> float:
    """`(1 + cos(π · step / steps)) / 2`, 0 from `steps` on."""
    return (1.0 + math.cos(math.pi * step / steps)) / 2 if step < steps else 0.0


def _flat_linear(schedule: Schedule, progress: float) -> float:
    decay = (progress - schedule.flat_until) / (schedule.decay_until - schedule.flat_until)
    return 1.0 - (1.0 - schedule.final_factor) * min(max(decay, 0.0), 1.0)
