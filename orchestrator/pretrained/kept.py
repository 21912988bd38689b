"""Weights that runs keep since they began: what they were read from may be gone, or be something else now."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

from ekd_train.persistence.checkpoint import DamagedCheckpoint
from ekd_train.persistence.networks import load_pretrained
from ekd_train.settings import Architecture, Pretrained
from orchestrator.errors import EkdError
from orchestrator.experiment.infrastructure import RUN_ID, SHARED_NETWORKS
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.teachers import Teachers
from orchestrator.pipeline.manifest import MANIFEST, read_experiment, read_manifest
from orchestrator.pretrained.holders import completed_by, with_completed, with_weights
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.state_dict import MOST_WEIGHT_BYTES
from orchestrator.storage import Storage, open_storage

PATIENCE_S = 10.0
REGISTRY = "models:/"


@dataclass(frozen=True)
class Begun:
    """A run of the storage, and what it began with."""

    run_id: str
    storage: Storage
    experiment: Experiment
    created: float
    """In seconds since 1970."""

    @cached_property
    def holders(self) -> Mapping[str, Pretrained]:
        """What of it starts from weights, by the keys of `with_weights`."""
        return {key: holder for key, (holder, _) in with_weights(self.experiment).items()}


class Kept:
    """What runs of an experiment's storage keep of weights: of the run with its id, or that it would have."""

    def __init__(self, experiment: Experiment, run_id: str | Callable[[Experiment], str] | None) -> None:
        """`run_id`: as the user gave it, or what makes it of an experiment; None: the default one."""
        self.notices: list[str] = []
        """What was used instead of what the experiment names, a line each."""
        self._experiment = experiment
        self._named = run_id if isinstance(run_id, str) else None
        self._id_of = run_id if callable(run_id) else Experiment.default_run_id

    def instead_of(self, key: str, holder: Pretrained, problem: EkdError) -> PretrainedNetwork | None:
        """The weights of `holder`, which cannot be read, by a run that began with them; None: there is none.

        That is the run of this command, or any, where the experiment states their SHA-256.
        """
        stated = holder.weights_sha256
        for run in self._same_command:
            theirs = run.holders.get(key)
            if (
                theirs is not None
                and theirs.weights == holder.weights
                and stated
                in (
                    None,
                    theirs.weights_sha256,
                )
            ):
                found = _stored(run, theirs)
                if found is not None:
                    return self._noted(key, holder, problem, run, found)
        for run in self._all() if stated is not None else ():
            for theirs in run.holders.values():
                if theirs.weights_sha256 == stated and (found := _stored(run, theirs)):
                    return self._noted(key, holder, problem, run, found)
        return None

    def before_it_moved(
        self, key: str, holder: Pretrained, now: PretrainedNetwork
    ) -> PretrainedNetwork | None:
        """What an alias pointed to when the run began that the user names; None: the same, or no such run."""
        if self._named is None or not _is_alias(holder):
            return None
        for run in self._same_command:
            theirs = run.holders.get(key)
            if theirs is not None and theirs.weights == holder.weights:
                found = _stored(run, theirs) if theirs.weights_sha256 != now.sha256 else None
                if found is not None:
                    self.notices.append(
                        f"{holder.weights} {self._moved(holder, found.sha256, now)}; run {run.run_id} "
                        "continues with what it began with"
                    )
                return found
        return None

    def former_run(self, completed: Experiment, networks: Mapping[str, PretrainedNetwork]) -> str | None:
        """One line where the same command was another run before, with other weights at the same addresses.

        None: it was not, this run has begun too, or the user has named it.
        """
        ours = {key: holder for key, (holder, _) in with_weights(completed).items()}
        runs = self._same_command if self._named is None else []
        if any(run.run_id == self._id_of(completed) for run in runs):
            return None
        for run in runs:
            other = [key for key in ours if ours[key].weights_sha256 != run.holders[key].weights_sha256]
            said = [
                f"{ours[key].weights} "
                + self._moved(ours[key], run.holders[key].weights_sha256, networks[str(sha256)])
                for key in other
                if (sha256 := ours[key].weights_sha256)
            ]
            aliases = all(_is_alias(ours[key]) for key in other)
            way = (
                f"`--run-id {run.run_id}` continues it" if aliases else "with its weights restored it goes on"
            )
            if said:
                return (
                    f"{'; '.join(said)}: another run than {run.run_id}, which began with the former ({way})"
                )
        return None

    @cached_property
    def _same_command(self) -> list[Begun]:
        """Of the run that is named; else those that began as this experiment, the newest first."""
        with suppress(EkdError, ValueError, OSError):  # what is wrong with the storage, its check says
            if self._named is not None:
                return list(self._begun([self._named]))
            return [run for run in self._all(f"{self._experiment.name}-") if self._is_same(run)]
        return []

    def _all(self, beginning: str = "") -> list[Begun]:
        with suppress(EkdError, ValueError, OSError):
            ids = [key.partition("/")[0] for key in self._root.list() if key.endswith(f"/{MANIFEST}")]
            runs = self._begun([each for each in ids if each.startswith(beginning)])
            return sorted(runs, key=lambda run: -run.created)
        return []

    @cached_property
    def _root(self) -> Storage:
        places = self._experiment.storage
        return open_storage(places.uri, places.endpoint_url, patience_s=PATIENCE_S)

    def _begun(self, run_ids: list[str]) -> Iterator[Begun]:
        for run_id in filter(RUN_ID.fullmatch, run_ids):
            run = self._root.child(run_id)
            with suppress(EkdError):  # damaged, or of a newer version: it cannot be continued
                manifest, experiment = read_manifest(run), read_experiment(run)
                if manifest is not None and experiment is not None:
                    yield Begun(run_id, run, experiment, manifest.created)

    def _is_same(self, run: Begun) -> bool:
        """Whether this command, with the weights that `run` began with, is `run`."""
        ours = with_weights(self._experiment)
        if {key: each.weights for key, (each, _) in ours.items()} != {
            key: each.weights for key, each in run.holders.items()
        }:
            return False
        with suppress(EkdError):  # the experiment states another SHA-256
            filled = {key: completed_by(each, _known(run.holders[key])) for key, (each, _) in ours.items()}
            return self._id_of(with_completed(self._experiment, filled)) == run.run_id
        return False

    def _noted(
        self, key: str, holder: Pretrained, problem: EkdError, run: Begun, found: PretrainedNetwork
    ) -> PretrainedNetwork:
        self.notices.append(
            f"{key}.weights: {holder.weights}: {problem}; what run {run.run_id} keeps of them is used "
            f"(SHA-256 {found.sha256[:12]})"
        )
        return found

    def _moved(self, holder: Pretrained, before: str | None, now: PretrainedNetwork) -> str:
        """From what to what, in words."""
        was, is_now = f"SHA-256 {str(before)[:12]}", f"SHA-256 {now.sha256[:12]}"
        if not _is_alias(holder):
            return f"has changed ({was}, now {is_now})"
        registered = import_module("orchestrator.pretrained.registered")
        name = str(holder.weights).removeprefix(REGISTRY)
        with suppress(EkdError):
            was = registered.version_with(name, str(before), self._experiment) or was
        return f"was {was} and is {now.address or is_now} now"


def _is_alias(holder: Pretrained) -> bool:
    return str(holder.weights).startswith(REGISTRY) and "@" in str(holder.weights)


def _known(theirs: Pretrained) -> PretrainedNetwork:
    """What a run's experiment says of its weights, without these."""
    own = theirs.architecture if isinstance(theirs, Teachers) else theirs
    assert isinstance(own, Architecture)
    plain = own.model_copy(update=dict.fromkeys(Pretrained.model_fields))
    return PretrainedNetwork(
        {},
        str(theirs.weights_sha256),
        plain if ":" not in plain.name else None,  # what is stored names no code to import
        mean=theirs.mean,
        std=theirs.std,
        image_size=theirs.image_size,
    )


def _stored(run: Begun, theirs: Pretrained) -> PretrainedNetwork | None:
    """The weights as the run keeps them, compared with the hash of what it stored; None: not whole."""
    known = _known(theirs)
    shared = run.storage.top.child(SHARED_NETWORKS)
    try:
        weights = load_pretrained(run.storage, shared, known.sha256, MOST_WEIGHT_BYTES)
    except (DamagedCheckpoint, LookupError):
        return None
    known.weights.update(weights)
    return known
