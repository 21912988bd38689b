"""The network that a training run trains, and the plain one that it averages to."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ekd_train.data.description import ImageSpec
from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.models.branches import to_branches
from ekd_train.models.lora import head_of, to_lora
from ekd_train.models.papa import Papa
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm, to_synchronised_batch_norm
from ekd_train.settings import Architecture, Student, TrainingRun


def build_network(
    run: TrainingRun,
    spec: ImageSpec,
    start: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The untrained network of `run`, drawn from torch's global generator.

    Args:
        run: what to build: a plain network, or a student with subnetworks.
        spec: of the images and classes; normalisation is inside the network.
        start: weights of the plain network (`persistence.networks.starting_weights`) in place of drawn ones;
            subnetworks are made of these.

    Raises `ValueError`: an architecture that is unknown or does not fit; the message says which and why.
    """
    plain = build_plain(run.architecture, spec)
    if start is not None:
        plain.load_state_dict(start)
    student = run.student
    draw = partial(build_plain, run.architecture, spec)
    network = plain if student is None else _with_subnetworks(plain, student, spec, draw)
    if run.training.batch_norm == "synchronised":
        network = to_synchronised_batch_norm(network)
    return network


def network_on_paper(run: TrainingRun, spec: ImageSpec) -> nn.Module:
    """As `build_network`, on torch's meta device: shapes without values."""
    with torch.device("meta"):
        return build_network(run, spec)


def build_plain(architecture: Architecture, spec: ImageSpec) -> nn.Module:
    """The plain network of an architecture; arguments and errors as `build_network`."""
    return build_model(**build_arguments(architecture, spec))


def build_arguments(architecture: Architecture, spec: ImageSpec) -> dict[str, Any]:
    """The arguments of `build_model`, as plain values. What the architecture wants of images goes before
    what they are."""
    channels = spec.image_shape[0]
    arguments = {
        "num_classes": spec.num_classes,
        "in_channels": len(architecture.mean) if architecture.mean and channels == 1 else channels,
        "image_size": spec.image_shape[1],
        "mean": spec.mean,
        "std": spec.std,
        **architecture.model_dump(exclude_none=True, exclude={"weights", "weights_sha256"}),
    }
    if not architecture.options:
        del arguments["options"]
    return arguments | ({"resized": True} if architecture.image_size is not None else {})


def _with_subnetworks(
    plain: nn.Module, student: Student, spec: ImageSpec, draw: Callable[[], nn.Module]
) -> nn.Module:
    match student.method:
        case "kd":
            return plain
        case "batch_ensemble" | "latent_be":
            factors = student.factors
            return to_batch_ensemble(
                plain,
                student.members,
                factors.init,
                init_std=factors.init_std,
                member_bias=factors.member_bias,
            )
        case "lora":
            lora = student.lora
            head = head_of(plain, spec.image_shape)
            return to_lora(
                plain, student.members, lora.rank, lora.init, train_base=lora.train_base, head=head
            )
        case "papa":
            others = [draw() for _ in range(student.members - 1)]
            return Papa([plain, *others], every=student.papa.every, rate=student.papa.rate)
        case "ekd":
            return to_branches(
                plain, student.members, split=student.branches.split, init=student.branches.init
            )


def member_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits `(s, b, c)`; a plain network is one with a single member."""
    logits: Tensor = network(images)
    return logits if logits.ndim == 3 else logits.unsqueeze(0)


def averaged(network: nn.Module, weights: Tensor | None = None) -> nn.Module:
    """The plain network that `network` averages to; a plain network is its own average.

    `weights`: see `Subnetworks.averaged`.
    """
    plain = network.averaged(weights) if isinstance(network, Subnetworks) else network
    return from_synchronised_batch_norm(plain)
