"""What given teachers are worth: measured on validation images before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ekd_train.data.augment import as_float
from ekd_train.data.dataset import Dataset
from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import build_network
from ekd_train.settings import TrainingRun
from orchestrator.errors import ExperimentError

IMAGES = 128
"""A look, for which a user waits; the whole split is measured by the run itself."""

FEW = 5
"""Images of a class; of fewer, none may be recognised by chance."""
HARDLY, MOST = 0.05, 0.7
"""Recalls of a class: what a wrong order of two classes leaves of it, and what a network that has learned the
data reaches on the others."""


@dataclass(frozen=True)
class Measured:
    """One given teacher on a few validation images."""

    accuracy: float
    images: int
    chance: float
    """1 / classes, or the share of the commonest of these images, which a constant answer reaches."""
    squashed: bool = False
    """Whether all outputs lie in [0, 1], as a sigmoid's do, and few logits."""
    unrecognised: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Classes of at least `FEW` of these images of which hardly one is recognised, though most images of the
    other classes are: how many images, and the class that most of them are taken for."""

    @property
    def by_luck(self) -> float:
        """What guessing reaches at most, of so few images: three standard deviations above chance."""
        return self.chance + 3 * (self.chance * (1 - self.chance) / self.images) ** 0.5


@torch.no_grad()
def measured(run: TrainingRun, weights: Mapping[str, Tensor], dataset: Dataset, spec: ImageSpec) -> Measured:
    """Evaluate the network of `run` with `weights`. Raises `ExperimentError`: its outputs are no logits."""
    classifier = build_network(run, spec)
    classifier.load_state_dict(weights, strict=False)  # num_batches_tracked, which old files lack
    split = dataset.validation
    rows = np.unique(np.linspace(0, len(split) - 1, IMAGES).astype(int))
    logits = classifier.eval()(as_float(torch.from_numpy(split.images[rows])))
    if not logits.isfinite().all():
        raise ExperimentError("its logits are not finite; are the weights damaged, or in half precision?")
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(len(rows)), atol=1e-3):
        raise ExperimentError(
            "it gives probabilities (each row sums to 1), not logits; take the softmax off its end"
        )
    labels = torch.from_numpy(split.labels[rows])
    right = logits.argmax(1) == labels
    commonest = labels.bincount().max().item() / len(rows)
    return Measured(
        right.float().mean().item(),
        len(rows),
        max(1 / dataset.num_classes, commonest),
        bool(((logits >= 0) & (logits <= 1)).all()),
        _unrecognised(logits.argmax(1), labels),
    )


def _unrecognised(answers: Tensor, labels: Tensor) -> dict[int, tuple[int, int]]:
    """As `Measured.unrecognised`. Int64 `(n,)` both."""
    found, others = {}, []
    for label in labels.unique().tolist():
        given = answers[labels == label]
        recall = (given == label).double().mean().item()
        if len(given) >= FEW and recall <= HARDLY:
            found[label] = len(given), int(given.bincount().argmax())
        else:
            others.append(recall)
    return found if others and sum(others) / len(others) >= MOST else {}
