"""Perturbations of training images that make the teachers' diversity show: a file and a line each.

`perturb` does it all. A training step that shares its batch among workers calls `draw` for the global
batch, `rows` for its own share, and `apply`: the same images then get the same perturbation, whatever
the number of workers.

>>> import torch
>>> choices = draw("gaussian", torch.Generator().manual_seed(0), batch_size=4, num_teachers=0)
>>> images = torch.full((4, 3, 8, 8), 0.5)
>>> shares = [apply("gaussian", images[rows], choices.rows(rows.start, rows.stop), strength=1.0)
...           for rows in (slice(0, 1), slice(1, 4))]
>>> torch.equal(torch.cat(shares), apply("gaussian", images, choices, strength=1.0))
True
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.own_code import is_own, load, refuse_options
from ekd_train.perturbations.draw import Draw, draw_choices
from ekd_train.perturbations.gaussian import gaussian
from ekd_train.perturbations.ods import conf_ods, ods
from ekd_train.perturbations.perturbation import Networks, Perturbation, TeacherSequence
from ekd_train.perturbations.tdiv import tdiv, tdiv_sdiv

__all__ = [
    "PERTURBATIONS",
    "Draw",
    "Networks",
    "Perturbation",
    "TeacherSequence",
    "apply",
    "changes_images",
    "draw",
    "perturb",
    "perturbation_of",
]

PERTURBATIONS: dict[str, Perturbation] = {
    "none": Perturbation(lambda images, draw, networks: torch.zeros_like(images)),
    "gaussian": Perturbation(gaussian),
    "ods": Perturbation(ods, drawn_teachers=1),
    "conf_ods": Perturbation(conf_ods, drawn_teachers=1),
    "tdiv": Perturbation(tdiv, drawn_teachers=2),
    "tdiv_sdiv": Perturbation(tdiv_sdiv, drawn_teachers=2, needs_student=True),
}


def changes_images(kind: str, strength: float) -> bool:
    """Whether any image comes out another one."""
    return kind != "none" and strength > 0


def draw(kind: str, generator: torch.Generator, *, batch_size: int, num_teachers: int) -> Draw:
    """The random choices for one global batch.

    Args:
        kind: a key of `PERTURBATIONS`.
        generator: advanced by as many draws for every batch, whatever its size. On the CPU best: its
            numbers are read on the CPU.
        batch_size: images in the global batch.
        num_teachers: k.

    Raises `ValueError` for an unknown kind, or fewer teachers than it evaluates.
    """
    drawn = perturbation_of(kind).drawn_teachers
    if num_teachers < drawn:
        raise ValueError(
            f"perturbation {kind!r} evaluates {drawn} different teachers, but there are {num_teachers}; "
            f"give it at least {drawn} teachers, or choose perturbation.kind gaussian or none"
        )
    return draw_choices(generator, batch_size=batch_size, num_teachers=num_teachers, drawn=drawn)


def apply(
    kind: str,
    images: Tensor,
    choices: Draw,
    *,
    strength: float,
    teachers: TeacherSequence = (),
    student: nn.Module | None = None,
    temperature: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """`clip(images + strength · displacement, 0, 1)` for choices already made; see `perturb`.

    A pure function: the same arguments give the same images, and networks are left as they were.

    Raises `ValueError` for an unknown kind, a negative strength, a temperature that is not positive, choices
    for another number of images, or a student without the members that this kind evaluates.
    """
    perturbation = perturbation_of(kind, options)
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0 grey levels, not {strength}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if len(images) != choices.stop - choices.start:
        raise ValueError(f"choices for {choices.stop - choices.start} images, but there are {len(images)}")
    if perturbation.needs_student:
        _check_members(kind, student, len(teachers))
    if strength == 0:
        return images.detach()
    networks = Networks(teachers, student, temperature)
    displacement = perturbation.displacement(images.detach(), choices, networks)
    return (images.detach() + strength * displacement).clamp(0, 1)


def perturb(
    images: Tensor,
    *,
    kind: str,
    strength: float,
    teachers: TeacherSequence,
    student: nn.Module | None,
    temperature: float,
    generator: torch.Generator,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Perturb a batch of training images: draw, then `apply`.

    Args:
        images: `(b, channel, height, width)`, in [0, 1].
        kind: `none`, `gaussian`, `ods`, `conf_ods`, `tdiv`, `tdiv_sdiv`, or `package.module:name`.
        strength: in grey levels, >= 0: 1 is a root-mean-square change of 1/255 per image before
            clipping (ConfODS: times the teacher's confidence; Gaussian: in expectation). 0 is exactly
            the clean image and evaluates no network.
        teachers: networks from images to logits `(b, c)`; ODS needs 1, TDiv 2.
        student: for `tdiv_sdiv`, a `models.subnetworks.Subnetworks` with as many members as teachers:
            `student(images, members=[i])` is `(1, b, c)`.
        temperature: τ of the softmax in ODS and ConfODS; the others have none.
        generator: source of every random choice.
        options: keyword arguments of a perturbation of one's own.

    Returns:
        Detached images in [0, 1], of the same shape, dtype and memory format. Only the drawn networks
        are evaluated, in eval mode; no parameter, buffer, gradient or mode of theirs is changed.

    Raises `ValueError` for the same, and for fewer teachers than the kind evaluates.

    >>> teachers = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    >>> how = {"kind": "tdiv", "strength": 2.0, "temperature": 1.0, "generator": torch.Generator()}
    >>> perturb(torch.rand(5, 1, 8, 8), teachers=teachers, student=None, **how).shape
    torch.Size([5, 1, 8, 8])
    """
    choices = draw(kind, generator, batch_size=len(images), num_teachers=len(teachers))
    return apply(
        kind,
        images,
        choices,
        strength=strength,
        teachers=teachers,
        student=student,
        temperature=temperature,
        options=options,
    )


def perturbation_of(kind: str, options: Mapping[str, Any] | None = None) -> Perturbation:
    """The perturbation of a kind: of the table, or of one's own, a `Perturbation` or just its displacement.

    `options`: keyword arguments of one's own displacement. Raises `ValueError`: an unknown kind.
    """
    refuse_options(options or {}, kind)
    if is_own(kind):
        own = load(kind)
        perturbation = own if isinstance(own, Perturbation) else Perturbation(own)
        if not options:
            return perturbation
        return replace(perturbation, displacement=partial(perturbation.displacement, **options))
    if kind not in PERTURBATIONS:
        raise ValueError(f"unknown perturbation {kind!r}; known: {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[kind]


def _check_members(kind: str, student: nn.Module | None, num_teachers: int) -> None:
    members = getattr(student, "num_members", 0)
    if members != num_teachers:
        raise ValueError(
            f"perturbation {kind!r} compares student members i and j with teachers i and j, but the student "
            f"has {members} members for {num_teachers} teachers; give it as many members as teachers "
            "(student.method latent_be, batch_ensemble or ekd), or choose perturbation.kind tdiv"
        )
