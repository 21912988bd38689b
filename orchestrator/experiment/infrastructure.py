"""Where an experiment runs, is kept and is recorded: nothing here decides a result, but for the workers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import field_validator, model_validator

from ekd_train.settings import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Settings
from orchestrator.errors import ExperimentError
from orchestrator.experiment.explanation import quoted
from orchestrator.experiment.hosts import is_malformed
from orchestrator.experiment.redaction import redacted

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What run ids and registered models' names look like: they become folders, keys and tags."""

SHARED_NETWORKS = "networks"
"""The folder of `storage.uri` that has the trained networks of all runs, and so no run's id."""
SHARED_PACKS = "packed"
"""The same of packed images."""

_NAME = r"[A-Za-z0-9._-]+"
MODEL_NAME = re.compile(_NAME)
"""The name of a registered model."""
MODEL_URI = re.compile(rf"models:/(?P<name>{_NAME})(/(?P<version>[1-9]\d{{0,17}})|@(?P<alias>{_NAME}))")
"""`models:/NAME/VERSION` or `models:/NAME@ALIAS`."""

LONGEST_NAME = 80
"""Characters of an experiment's name: leaves room for what run ids add."""


class LivenessSettings(Settings):
    """How long nothing may be heard of a worker that trains, or of a trial of a search."""

    said_after_s: PositiveFloat = 30
    """Seconds of silence, or `said_after_steps` where that is longer, after which a line says of whom."""
    said_after_steps: Positive = 20
    """The same in steps of the training run, as long as its longest lately."""
    restart_after_s: PositiveFloat = 120
    """Seconds of silence, or `restart_after_steps` where that is longer, after which the worker group is
    started again from its last checkpoint; the third time without a new step the run ends, of trials the
    trial."""
    restart_after_steps: Positive = 60
    """The same in steps."""
    between_steps_s: PositiveFloat = 7200
    """Seconds that a worker which gives signs of life may take for what are no steps: to load, to take the
    first step, to validate, to store, to evaluate. A line says so from a twelfth of it on; once it is known
    what that takes between two steps, after five times as long (`said_after_s` at least)."""


class Cluster(Settings):
    """How one training run is spread over the cluster's machines."""

    address: str | None = None
    """Ray's address; null: RAY_ADDRESS, else a cluster running here, else a local one is started."""
    workers_per_run: Positive | tuple[Positive, Positive] = 1
    """Data-parallel workers of each training run; [min, max]: elastic."""
    cpus_per_worker: Positive = 1
    """CPU cores that Ray keeps for each worker."""
    gpus_per_worker: NonNegativeFloat = 0
    """GPUs that Ray keeps for each worker; 0: it trains on CPU cores. Below 1 workers share one: of different
    runs, because those of one could not exchange gradients."""
    gpu_memory_gib: PositiveFloat | None = None
    """What a GPU has, in GiB, for `ekd plan` and `ekd run` to refuse what does not fit; null: this machine's
    are asked, those of a cluster are not."""
    runs_at_once: Positive | None = None
    """Training runs side by side; null: as many as the cluster has room for."""
    max_failures: NonNegative = 3
    """How many times a worker group that lost a worker is started again before the run fails."""
    resize_every_s: PositiveFloat = 60
    """Elastic: seconds between looks for hosts that came; the workers start anew with them, from their
    last checkpoint. It may take two looks: Ray acts on what it saw at the one before."""
    verify_every: NonNegative = 0
    """Steps from one comparison of what workers compute to the next: each makes another's gradients again,
    and a difference ends the run and names the hosts. It takes as long as two steps. 0: never. Needs two
    workers a run or more, on processors of one kind."""
    liveness: LivenessSettings = LivenessSettings()

    @field_validator("address")
    @classmethod
    def _an_address_without_credentials(cls, value: str | None) -> str | None:
        return refuse_malformed(refuse_credentials(value))

    @field_validator("workers_per_run", mode="before")
    @classmethod
    def _a_number_or_two(cls, value: Any) -> Any:
        pair = isinstance(value, list | tuple)
        numbers = value if pair else (value,)
        if (pair and len(value) != 2) or not all(type(n) is int and n >= 1 for n in numbers):
            raise ValueError("write a number, or [min, max], from 1 up")
        return tuple(value) if pair else value

    @field_validator("workers_per_run")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("[min, max] must have min <= max")
        return value

    @model_validator(mode="after")
    def _gpus_of_their_own(self) -> "Cluster":
        gpus = self.gpus_per_worker
        if gpus % 1 and gpus > 1:
            raise ValueError(f"gpus_per_worker is {gpus:g}; write a whole number, or one below 1")
        if gpus % 1 and self.most_workers > 1:
            raise ValueError(
                f"gpus_per_worker is {gpus:g}, but workers of one run cannot share a GPU (NCCL refuses it); "
                "use whole GPUs, or workers_per_run=1 to pack several runs on one"
            )
        return self

    @model_validator(mode="after")
    def _verified_by_another(self) -> "Cluster":
        if self.verify_every and self.most_workers == 1:
            raise ValueError(
                f"verify_every is {self.verify_every}, but there is one worker to a run, and no other that "
                "could compute its steps again; raise workers_per_run, or leave it 0"
            )
        return self

    @property
    def elastic(self) -> bool:
        """Whether a run may go on with fewer workers, and grow again."""
        return isinstance(self.workers_per_run, tuple)

    @property
    def most_workers(self) -> int:
        """The largest number of workers that a run may have."""
        return self.workers_per_run[1] if isinstance(self.workers_per_run, tuple) else self.workers_per_run

    @property
    def fewest_workers(self) -> int:
        """The smallest number of workers that a run can go on with."""
        return self.workers_per_run[0] if isinstance(self.workers_per_run, tuple) else self.workers_per_run


class StorageSettings(Settings):
    """Where a run's files are kept."""

    uri: str = "ekd-runs"
    """A folder or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """An S3-compatible server's address (MinIO, Ceph, R2, ...)."""
    keep_checkpoints: Positive = 2
    """Checkpoints kept of each training run in progress."""

    @field_validator("uri", "endpoint_url")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        return refuse_credentials(value)

    @field_validator("endpoint_url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        return refuse_malformed(value)


_LEADS_ELSEWHERE = {"host", "hostaddr", "service", "dsn", "unix_socket", "read_default_file"}
"""Parameters of databases' addresses that say where the server is, whatever stands before."""

ChampionBy = Literal["accuracy", "nll", "balanced_accuracy"]


class Tracking(Settings):
    """Where a run is recorded and its student registered."""

    uri: str | None = None
    """An MLflow tracking URI; null: MLFLOW_TRACKING_URI, else a SQLite file beside the runs."""
    registered_model: str | None = None
    """Name in the model registry; null: `ekd-<experiment's name>`."""
    champion_by: ChampionBy = "accuracy"
    """What a version must be better in, on the validation images, to become champion by itself; NLL breaks
    ties, and accuracy those of NLL."""
    patience_s: NonNegativeFloat = 180
    """Seconds that registering waits for a tracking server that is away before the run ends without it."""

    @field_validator("uri")
    @classmethod
    def _says_where(cls, value: str | None) -> str | None:
        refuse_credentials(value)
        query = parse_qs((value or "").partition("?")[2], keep_blank_values=True)
        if elsewhere := sorted(key for key in query if key.lower() in _LEADS_ELSEWHERE):
            raise ValueError(f"its parameter {elsewhere[0]} leads elsewhere; write the host after the ://")
        return value

    @field_validator("registered_model")
    @classmethod
    def _valid_name(cls, value: str | None) -> str | None:
        return checked_name(value, 100) if value is not None else None


def checked_name(value: str, longest: int = LONGEST_NAME) -> str:
    """`value`, if it can be part of run ids, keys and tags; raises `ValueError`."""
    if not RUN_ID.fullmatch(value) or len(value) > longest:
        raise ValueError(
            f"use letters, digits, '.', '_' and '-', a letter or digit first, at most {longest}; "
            f"not {quoted(value)}"
        )
    return value


def name_of_file(path: Path) -> str:
    """The name of an experiment that has none: its file's. Raises `ExperimentError` if that cannot be one."""
    try:
        return checked_name(path.stem)
    except ValueError:
        raise ExperimentError(
            f"{path}: has no name, and its file's cannot be one; write `name: my_experiment` into it"
        ) from None


def refuse_credentials(value: str | None, key: str = "") -> str | None:
    """`value`, a URI or None, if it holds no credentials; raises `ValueError`, which begins with `key`."""
    if value and redacted(value) != value:
        raise ValueError(f"{key}credentials do not belong in an experiment; set them in the environment")
    return value


def refuse_malformed(value: str | None) -> str | None:
    """`value`, an address or None, if host and port can be told apart in it; raises `ValueError`."""
    if value and is_malformed(value):
        raise ValueError(f"{quoted(value)} is no address: its host or its port cannot be one")
    return value


def refuse_credentials_in(values: Mapping[str, str | None]) -> None:
    """As `refuse_credentials`, of each by its key."""
    for key, value in values.items():
        refuse_credentials(value, f"{key}: ")
