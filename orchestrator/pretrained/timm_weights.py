"""Weights that timm publishes, from the Hugging Face hub's cache or a download into it."""

import difflib
from typing import Any

import timm

from ekd_train.hugging_face_hub import audible, cache_alone, why_hub_is_away
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import Experiment
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.registry.provenance import weights_sha256


def read(name: str, experiment: Experiment, stated: str | None) -> PretrainedNetwork:
    """The weights `NAME` or `NAME.TAG`, and what they want of images.

    timm knows more than one form of file; the hash is of the tensors that it makes of them. Raises
    `ExperimentError`: no such weights, or neither in the cache nor to download.
    """
    if not timm.is_model_pretrained(name):
        nearest = difflib.get_close_matches(name, timm.list_pretrained(), n=3, cutoff=0.0)
        raise ExperimentError(f"timm publishes no such weights; the nearest are {', '.join(nearest)}")
    wanted = timm.get_pretrained_cfg(name)
    assert wanted is not None
    try:
        network = _created(name)
    except Exception as error:  # the hub's client and timm raise what they like
        raise ExperimentError(
            f"not in the Hugging Face hub's cache, nor to download ({one_line(error, 100)}); "
            f"`hf download {wanted.hf_hub_id}` where there is a network, and copy HF_HOME; or give "
            f"its file, weights: model.safetensors, with architecture: {{name: timm/{name}}}, "
            f"mean: {list(wanted.mean)}, std: {list(wanted.std)}, image_size: {wanted.input_size[-1]}"
        ) from None
    return PretrainedNetwork(
        network.state_dict(),
        weights_sha256(network),
        Architecture(name=f"timm/{name}"),
        mean=tuple(wanted.mean),
        std=tuple(wanted.std),
        image_size=wanted.input_size[-1],
    )


def _created(name: str) -> Any:
    """The network with its weights: from the cache, else from the hub, which is asked once if it is there.

    Raises what timm and the hub's client raise; `ConnectionError`: the hub does not answer.
    """
    try:
        with cache_alone():
            return timm.create_model(name, pretrained=True)
    except Exception:  # not there, or damaged
        if why := why_hub_is_away():
            raise ConnectionError(why) from None
    with audible(f"timm:{name}"):
        return timm.create_model(name, pretrained=True)
