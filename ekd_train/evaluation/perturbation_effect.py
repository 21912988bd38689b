"""What a run's perturbation does to training images, and to what the networks make of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ekd_train.data.augment import as_float
from ekd_train.data.packed.loader import StreamedImages
from ekd_train.data.seeds import derive_seed
from ekd_train.models.build_network import member_logits
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.teachers import Teachers
from ekd_train.perturbations import changes_images, perturb
from ekd_train.settings import TrainingRun

BATCHES, BATCH_SIZE = 4, 64
SHOWN = 6


def perturbation_effect(
    run: TrainingRun,
    teachers: Sequence[nn.Module],
    student: nn.Module,
    images: Tensor | StreamedImages,
    labels: Tensor,
) -> dict[str, Tensor]:
    """Perturb a few batches as the finished `run` would, and predict both versions.

    Args:
        run: the student's training run; its perturbation may be none.
        teachers: the networks it learned from.
        student: with its subnetworks, as trained; evaluation mode.
        images: uint8 training images `(n, channel, height, width)`, at least one.
        labels: `(n,)`.

    Nothing where the run has no perturbation, else, for the first images of the split: `clean`, `perturbed`
    `(m, ...)` in [0, 1] and `labels` of the few to show, and the probabilities `teachers/clean`,
    `teachers/perturbed` `(k, b, c)` and, of a student with subnetworks, `members/*` `(s, b, c)` of all.
    """
    settings = run.perturbation
    if not changes_images(settings.kind, settings.strength):
        return {}
    used = images[: BATCHES * BATCH_SIZE]
    clean = as_float(used)
    generator = torch.Generator().manual_seed(derive_seed(run.seed, run.name, "perturbation effect"))
    temperature = run.distillation.temperature if run.distillation is not None else 1.0
    frozen = Teachers(list(teachers))
    perturbed = torch.cat(
        [
            perturb(
                batch,
                kind=settings.kind,
                strength=settings.strength,
                teachers=frozen,
                student=student,
                temperature=settings.temperature or temperature,
                generator=generator,
                options=settings.options,
            )
            for batch in clean.split(BATCH_SIZE)
        ]
    )
    made = {"clean": clean[:SHOWN], "perturbed": perturbed[:SHOWN], "labels": labels[:SHOWN]}
    watched: dict[str, nn.Module] = {"teachers": frozen}
    if isinstance(student, Subnetworks):
        watched["members"] = student
    for name, network in watched.items():
        made |= {f"{name}/clean": _probs(network, clean), f"{name}/perturbed": _probs(network, perturbed)}
    return made


@torch.no_grad()
def _probs(network: nn.Module, images: Tensor) -> Tensor:
    rows = [member_logits(network, batch).softmax(dim=-1) for batch in images.split(BATCH_SIZE)]
    return torch.cat(rows, dim=1)
