"""From the weights that an experiment names to the networks, and to an experiment that says what they are."""

from collections.abc import Mapping
from importlib import import_module

from ekd_train.settings import Pretrained
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.pretrained.holders import completed_by, with_completed, with_weights
from orchestrator.pretrained.kept import Kept
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.state_dict import from_file

PATIENCE_S = 20.0
"""A user waits for this: nothing has begun yet."""

SOURCES = {
    "torchvision:": "torchvision_weights",
    "timm:": "timm_weights",
    "models:/": "registered",
    "run:": "earlier_run",
}
"""What is not a file: how it begins, and the module here whose `read` knows the rest. Each is imported when
it is asked for: their libraries take seconds, and timm is an extra."""


def read_pretrained(
    experiment: Experiment, kept: Kept | None = None
) -> tuple[Experiment, Mapping[str, PretrainedNetwork]]:
    """The networks by their SHA-256, and `experiment` with that and with what else is known of them.

    What the experiment states goes before what is known. `kept`: where weights are that can no longer be
    read. Raises `ExperimentError`.
    """
    networks: dict[str, PretrainedNetwork] = {}
    read: dict[str, PretrainedNetwork] = {}
    completed: dict[str, Pretrained] = {}
    for key, (holder, _) in with_weights(experiment).items():
        assert holder.weights is not None
        try:
            if holder.weights not in read:
                read[holder.weights] = _read_or_kept(key, holder, experiment, kept)
            network = read[holder.weights]
            completed[key] = completed_by(holder, network)
        except EkdError as error:
            raise ExperimentError(f"{key}.weights: {holder.weights}: {error}") from None
        networks[network.sha256] = network
    return with_completed(experiment, completed), networks


def _read_or_kept(
    key: str, holder: Pretrained, experiment: Experiment, kept: Kept | None
) -> PretrainedNetwork:
    try:
        network = _read(holder, experiment)
    except EkdError as error:
        instead = kept.instead_of(key, holder, error) if kept is not None else None
        if instead is None:
            raise
        return instead
    moved = kept.before_it_moved(key, holder, network) if kept is not None else None
    return moved or network


def _read(holder: Pretrained, experiment: Experiment) -> PretrainedNetwork:
    weights = str(holder.weights)
    for beginning, module in SOURCES.items():
        if weights.startswith(beginning):
            try:
                source = import_module(f"orchestrator.pretrained.{module}")
            except ModuleNotFoundError as error:
                raise ExperimentError(
                    f"{weights} needs {error.name}: pip install 'ekd[{error.name}]'"
                ) from None
            found: PretrainedNetwork = source.read(
                weights.removeprefix(beginning), experiment, holder.weights_sha256
            )
            return found
    return from_file(weights, experiment.storage.endpoint_url, PATIENCE_S)
