"""Weights that torchvision publishes, from torch hub's cache or a download into it."""

import difflib
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from torchvision.models import get_model_weights, get_weight

from ekd_train.models.torchvision_classifiers import torchvision_names
from ekd_train.reachable import why_away
from ekd_train.settings import Architecture
from ekd_train.waiting import waiting_for
from orchestrator.errors import ExperimentError
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.state_dict import from_file

HALVES = ("googlenet", "inception_v3")
"""Their weights want (pixel - 0.5) / 0.5, which torchvision makes inside of ImageNet's mean and std."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Second outputs, of training alone."""

DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names of layers as of its first files: `norm.1.` is `norm1.` now."""


HASH = re.compile(r"-([0-9a-f]*)\.")
"""In a file's name, the beginning of its SHA-256."""


def read(entry: str, experiment: Experiment, stated: str | None) -> PretrainedNetwork:
    """The weights `ENUM.ENTRY`, with ImageNet's classes and what they want of images.

    Raises `ExperimentError`: no such entry, or no file of it in the cache nor to download.
    """
    names = {entry.__name__: name for name in torchvision_names() for entry in [get_model_weights(name)]}
    try:
        weights = get_weight(entry)
        name = names[type(weights).__name__]
    except (ValueError, KeyError, AttributeError):
        known = [f"{enum}.{each.name}" for enum, name in names.items() for each in get_model_weights(name)]
        nearest = difflib.get_close_matches(entry, known, n=3, cutoff=0.0)
        raise ExperimentError(
            f"no weights of a classifier of torchvision; the nearest are {', '.join(nearest)}"
        ) from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if not file.exists():
        try:
            _fetch(weights.url, file)
        except (OSError, RuntimeError) as error:
            raise ExperimentError(
                f"not in torch hub's cache, nor to download ({one_line(error, 100)}); "
                f"put {weights.url} at {file}"
            ) from None
    found = from_file(str(file), None, 0)
    images = weights.transforms()
    return PretrainedNetwork(
        {
            DENSENET.sub(r"\1\2", key): tensor
            for key, tensor in found.weights.items()
            if not key.startswith(AUXILIARY)
        },
        found.sha256,
        Architecture(name=name),
        mean=(0.5,) * 3 if name in HALVES else tuple(images.mean),
        std=(0.5,) * 3 if name in HALVES else tuple(images.std),
        image_size=images.crop_size[0],
        class_names=tuple(weights.meta["categories"]),
    )


def _fetch(url: str, file: Path) -> None:
    """Download `url`, whose hash is compared; raises `OSError`, or `RuntimeError` for other bytes."""
    if why := why_away(url):
        raise ConnectionError(why)
    file.parent.mkdir(parents=True, exist_ok=True)
    stated = HASH.search(file.name)
    with waiting_for(lambda: url):
        torch.hub.download_url_to_file(url, str(file), stated and stated[1], progress=False)
