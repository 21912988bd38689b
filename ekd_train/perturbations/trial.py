"""A perturbation of one's own, called once on made-up images before anything is trained for it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ekd_train.perturbations import apply, draw
from ekd_train.settings import PerturbationSettings

IMAGES = 4


class _Members(nn.Module):
    """What `ekd_train.models.subnetworks.Subnetworks` offers a perturbation."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members, self.num_members = nn.ModuleList(members), len(members)

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        chosen = range(self.num_members) if members is None else members
        return torch.stack([self.members[member](images) for member in chosen])


def try_perturbation(
    settings: PerturbationSettings, *, image_shape: Sequence[int], members: int, teachers: int, classes: int
) -> None:
    """Perturb images of that shape, with linear networks in the place of teachers and student.

    Raises `ValueError`: what it gives are no such images; whatever else it raises itself.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, *image_shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        networks, student = (
            # Pooled: of photographs and a thousand classes a matrix from every pixel would take gigabytes.
            [
                nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * len(images[0]), classes))
                for _ in range(count)
            ]
            for count in (teachers, members)
        )
    choices = draw(settings.kind, generator, batch_size=IMAGES, num_teachers=teachers)
    try:
        perturbed = apply(
            settings.kind,
            images,
            choices,
            strength=max(settings.strength, 1.0),
            teachers=networks,
            student=_Members(student),
            temperature=settings.temperature or 1.0,
            options=settings.options,
        )
    except Exception as error:
        raise ValueError(f"given images {tuple(images.shape)}: {type(error).__name__}: {error}") from error
    if perturbed.shape != images.shape:
        raise ValueError(f"makes of images {tuple(images.shape)} others, {tuple(perturbed.shape)}")
    if not perturbed.isfinite().all():
        raise ValueError(f"makes values that are not finite of images {tuple(images.shape)}")
