"""Example images of the page, as PNG data URIs."""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ekd_train.evaluation.diversity import diversity
from ekd_train.evaluation.mistakes import SHOWN
from orchestrator.report.evidence import Evidence

HALF_RANGE = 0.5
"""The amplified difference maps no change to mid grey, and the largest shown change to black or white."""


@dataclass(frozen=True)
class Example:
    """One training image before and after the perturbation."""

    label: str
    clean: str
    perturbed: str
    difference: str
    """Amplified around mid grey."""
    grey_levels: float
    """Root-mean-square change."""
    teachers: tuple[float, float]
    """The teachers' pairwise KL on this image, before and after."""


def examples(evidence: Evidence) -> tuple[list[Example], float]:
    """The examples, and the factor by which their differences are amplified (the same for all)."""
    tensors = evidence.tensors
    if "perturbation/clean" not in tensors:
        return [], 1.0
    clean, perturbed = tensors["perturbation/clean"], tensors["perturbation/perturbed"]
    change = perturbed - clean
    factor = HALF_RANGE / max(change.abs().max().item(), 1e-6)
    names = evidence.data.class_names

    def disagreement(what: str, index: int) -> float:
        probs: Tensor = tensors[f"perturbation/teachers/{what}"][:, index : index + 1]
        return diversity(probs).get("pairwise_kl", 0.0)

    made = [
        Example(
            label=names[int(tensors["perturbation/labels"][index])],
            clean=png(clean[index]),
            perturbed=png(perturbed[index]),
            difference=png(HALF_RANGE + factor * change[index]),
            grey_levels=255 * change[index].square().mean().sqrt().item(),
            teachers=(disagreement("clean", index), disagreement("perturbed", index)),
        )
        for index in range(len(clean))
    ]
    return made, factor


@dataclass(frozen=True)
class Mistake:
    """A test image that the averaged student gets wrong and is sure of."""

    image: str
    label: str
    predicted: str
    confidence: float
    """The averaged student's probability of `predicted`."""
    votes: list[tuple[str, int]]
    """Class and how many teachers think it the likeliest; most votes first."""


def mistakes(evidence: Evidence) -> list[Mistake]:
    """The most confident first; none of runs that kept no test images."""
    tensors, names = evidence.tensors, evidence.data.class_names
    if "mistakes/indices" not in tensors:
        return []
    made = []
    indices, images = tensors["mistakes/indices"][:SHOWN], tensors["mistakes/images"]
    averaged = evidence.probs("averaged")[indices]
    voted = torch.cat([block.argmax(-1) for block in tensors.blocks("test/ensemble")], dim=1)[:, indices]
    for index, image, probs, theirs in zip(indices.tolist(), images, averaged, voted.T, strict=False):
        votes = Counter(names[vote] for vote in theirs.tolist())
        made.append(
            Mistake(
                image=png(image / 255),
                label=names[int(evidence.labels()[index])],
                predicted=names[int(probs.argmax())],
                confidence=probs.max().item(),
                votes=votes.most_common(),
            )
        )
    return made


def png(image: Tensor) -> str:
    """`(channel, height, width)` in [0, 1], one or three channels, as a data URI."""
    pixels: Any = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
