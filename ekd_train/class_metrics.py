"""Metrics that count every class alike, and those of single classes."""

import torch
from torch import Tensor

from ekd_train.metrics import checked

TOP = 5
"""`top5_accuracy` counts an image as right whose label is among so many of the most probable classes."""


def recall_per_class(probs: Tensor, labels: Tensor) -> tuple[float | None, ...]:
    """For each class the fraction in [0, 1] of its images that are recognised; None: it has no images.

    Arguments and errors as `ekd_train.metrics.accuracy`.

    >>> recall_per_class(torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), torch.tensor([0, 1]))
    (1.0, 0.0, None)
    """
    hits, images, _ = _per_class(*checked(probs, labels))
    return tuple(
        hit / count if count else None for hit, count in zip(hits.tolist(), images.tolist(), strict=True)
    )


def balanced_accuracy(probs: Tensor, labels: Tensor) -> float:
    """Mean over the classes of their recall, in [0, 1]: every class counts alike, however few its images.

    As torchmetrics has it (macro average): a class that has neither images nor predictions is left out, one
    that is only predicted counts 0. Arguments and errors as `ekd_train.metrics.accuracy`.

    >>> balanced_accuracy(torch.tensor([[0.9, 0.1]] * 4), torch.tensor([0, 0, 0, 1]))
    0.5
    """
    hits, images, predictions = _per_class(*checked(probs, labels))
    return (hits / images.clamp(min=1))[images + predictions > 0].mean().item()


def macro_f1(probs: Tensor, labels: Tensor) -> float:
    """Mean over the classes of `F1 = 2 · hits / (images + predictions)`, in [0, 1].

    A class that has neither images nor predictions is left out. Arguments and errors as
    `ekd_train.metrics.accuracy`.

    >>> round(macro_f1(torch.tensor([[0.9, 0.1]] * 4), torch.tensor([0, 0, 0, 1])), 4)
    0.4286
    """
    hits, images, predictions = _per_class(*checked(probs, labels))
    both = images + predictions
    return (2 * hits / both.clamp(min=1))[both > 0].mean().item()


def top5_accuracy(probs: Tensor, labels: Tensor) -> float:
    """Fraction in [0, 1] of images whose label is among the five most probable classes.

    Arguments and errors as `ekd_train.metrics.accuracy`.

    >>> top5_accuracy(torch.tensor([[0.3, 0.25, 0.2, 0.13, 0.1, 0.02]]), torch.tensor([4]))
    1.0
    """
    probs, labels = checked(probs, labels)
    best = probs.topk(min(TOP, probs.shape[1]), dim=-1).indices
    return (best == labels[:, None]).any(dim=-1).double().mean().item()


def class_metrics(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """`balanced_accuracy`, `macro_f1` and, of more than ten classes, `top5_accuracy`; arguments as theirs.

    >>> sorted(class_metrics(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])))
    ['balanced_accuracy', 'macro_f1']
    """
    metrics = [balanced_accuracy, macro_f1] + ([top5_accuracy] if probs.shape[-1] > 2 * TOP else [])
    return {metric.__name__: metric(probs, labels) for metric in metrics}


def _per_class(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class its images that were recognised, its images, and the images it was predicted for."""
    classes, predicted = probs.shape[1], probs.argmax(dim=-1)
    counted = (labels[predicted == labels], labels, predicted)
    hits, images, predictions = (torch.bincount(of, minlength=classes).double() for of in counted)
    return hits, images, predictions
