"""What a step of each kind takes, and the table of it in git: `python tests/ekd_train/step_costs.py`.

A step costs more or less after a change of a method, of the networks, or of torch: look at the difference
before it is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from training_runs import SMALL, made_up_data, student_run, with_training

from ekd_train.own_code import allow, source_hash
from ekd_train.perturbations import PERTURBATIONS
from ekd_train.settings import (
    Architecture,
    Augmentation,
    ObjectiveName,
    Optimiser,
    Speed,
    StudentMethod,
    TrainingRun,
)
from ekd_train.settings.data import ColorJitter, RandAugment
from ekd_train.training.step_on_paper import StepCost, step_on_paper

TABLE = Path(__file__).with_suffix(".json")
PRECISIONS = ("float32", "bfloat16")
IMAGES = 64
WITHOUT_STAGES = Architecture(name="step_costs:OneConvolution")


RECIPES: dict[str, tuple[dict[str, Any], Augmentation]] = {
    "moving average": ({"ema": 0.9}, Augmentation()),
    "parts, clipped": ({"accumulate": 2, "clip_norm": 1.0}, Augmentation()),
    "adamw, smoothed labels": (
        {"optimiser": Optimiser(name="adamw"), "label_smoothing": 0.1},
        Augmentation(),
    ),
    "lamb": ({"optimiser": Optimiser(name="lamb")}, Augmentation()),
    "crops, mixed": ({}, Augmentation(crop="random_resized", flip=True, mixup=1, cutmix=1)),
    "jitter, erased": (
        {},
        Augmentation(color_jitter=ColorJitter(brightness=0.4, contrast=0.4), random_erasing=0.5),
    ),
    "rand_augment": ({}, Augmentation(rand_augment=RandAugment(operations=2))),
    "trivial_augment": ({}, Augmentation(trivial_augment=True)),
}


class OneConvolution(nn.Sequential):
    """As few layers as members can differ in, with batch statistics."""

    def __init__(self, num_classes: int, in_channels: int, **_: Any) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, num_classes),
        )


class Attention(nn.Module):
    """Without batch statistics: members are computed in turn."""

    def __init__(self, num_classes: int, **_: Any) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(images.flatten(1, 2))
        return self.head(self.heads(x, x, x, need_weights=False)[0].mean(1))


allow({"step_costs": source_hash("step_costs")})


def cases() -> Iterator[tuple[str, TrainingRun]]:
    """Every method with every perturbation, and what else has ways of its own through a step."""
    for method in get_args(StudentMethod):
        for kind, perturbation in PERTURBATIONS.items():
            if method == "kd" and perturbation.needs_student:
                continue  # it has no members
            # What asks most of a step: labels are learned too, on clean images where the method has that.
            yield f"{method} {kind}", _run(method, kind, alpha=0.5)
    for objective in get_args(ObjectiveName):
        if objective not in ("auto", "ekd"):
            yield f"latent_be with {objective}", _run("latent_be", "gaussian", objective=objective, alpha=0.5)
    features = {"ekd": {"feature": 1.0}}
    yield "ekd with features", _run("ekd", distillation=features)
    for recipe, (training, augmentation) in RECIPES.items():
        run = with_training(_run("latent_be", "tdiv_sdiv", alpha=0.5), **training)
        yield f"latent_be, {recipe}", run.model_copy(update={"augmentation": augmentation})
    attention = Architecture(name="step_costs:Attention")
    for method in ("latent_be", "lora"):
        yield f"{method} of attention", _run(method, "tdiv_sdiv", architecture=attention)


def _run(
    method: str, kind: str = "none", architecture: Architecture | None = None, **options: Any
) -> TrainingRun:
    # Branches part after a stage, which few networks have.
    chosen = architecture or (SMALL if method == "ekd" else WITHOUT_STAGES)
    run = student_run(method, kind, architecture=chosen, **options)
    teachers = tuple(teacher.model_copy(update={"architecture": chosen}) for teacher in run.teachers)
    return run.model_copy(update={"teachers": teachers})


def cost_of(run: TrainingRun, precision: str) -> StepCost:
    run = with_training(run, speed=Speed(precision=precision))
    return step_on_paper(run, made_up_data().spec, images=IMAGES)


def stored() -> dict[str, Any]:
    return json.loads(TABLE.read_text())


if __name__ == "__main__":
    made: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "steps": {}}
    for name, run in cases():
        for precision in PRECISIONS:
            cost = cost_of(run, precision)
            print(f"{name:28} {precision:9} {cost.operators:6} operators {cost.peak_bytes:9,} bytes")
            made["steps"][f"{name}, {precision}"] = [cost.operators, cost.peak_bytes]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in made["steps"].items())
    TABLE.write_text(f'{{"torch": {json.dumps(made["torch"])}, "steps": {{\n{lines}\n}}}}\n')
