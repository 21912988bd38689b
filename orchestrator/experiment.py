"""The whole typed description of one `ekd run`, and the one path by which values enter it.

A YAML file, `--set key=value` and a search all produce the same nested dictionary, changed
by dotted keys and validated once by `Experiment`. What is wrong is an `ExperimentError`
that names the key, the rule and, for an unknown key, the nearest known one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ekd_train.settings import (
    Architecture,
    DataSettings,
    Distillation,
    NonNegative,
    NonNegativeFloat,
    PerturbationSettings,
    Positive,
    Settings,
    Student,
    Training,
    TrainingRun,
)

PACKAGED = Path(__file__).parent / "experiments"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What run ids and registered models' names look like: they become folders, keys and tags."""


class ExperimentError(ValueError):
    """The experiment as written cannot be run; the message says which key, what is wrong, what to do."""


def _refuse_credentials(value: str | None) -> str | None:
    if value and re.search(r"://[^/@]*:[^/@]*@", value):
        raise ValueError("credentials do not belong in an experiment; set them in the environment")
    return value


class Teachers(Settings):
    """A group of teachers of one architecture, trained alike from different seeds."""

    count: Positive = 4
    architecture: Architecture = Architecture()
    training: Training = Training()


class Cluster(Settings):
    """How one training run is spread over the cluster's machines."""

    address: str | None = None
    """Ray's address; null: RAY_ADDRESS, else a cluster running here, else a local one is started."""
    workers_per_run: Positive | tuple[Positive, Positive] = 1
    """Data-parallel workers of each training run; [min, max]: elastic."""
    cpus_per_worker: Positive = 1
    gpus_per_worker: NonNegativeFloat = 0
    runs_at_once: Positive | None = None
    """Training runs side by side; null: as many as the cluster has room for."""
    max_failures: NonNegative = 3
    """How often a worker group that lost a worker is started again before the run fails."""

    @field_validator("workers_per_run")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("[min, max] must have min <= max")
        return value

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
        return _refuse_credentials(value)


class Tracking(Settings):
    """Where a run is recorded and its student registered."""

    uri: str | None = None
    """An MLflow tracking URI; null: MLFLOW_TRACKING_URI, else a SQLite file beside the runs."""
    registered_model: str | None = None
    """Name in the model registry; null: `ekd-<experiment's name>`."""

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        return _refuse_credentials(value)

    @field_validator("registered_model")
    @classmethod
    def _valid_name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_ID.fullmatch(value):
            raise ValueError("use letters, digits, '.', '_' and '-', at most 100 of them")
        return value


class Experiment(Settings):
    """One main job: teachers, student, how they are trained, measured, stored and recorded."""

    name: Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]
    description: str = ""
    seed: NonNegative = 0
    data: DataSettings = DataSettings()
    teachers: tuple[Teachers, ...] = (Teachers(),)
    """One group or a list of groups: a list may mix architectures."""
    student: Student = Student()
    distillation: Distillation = Distillation()
    perturbation: PerturbationSettings = PerturbationSettings()
    cluster: Cluster = Cluster()
    storage: StorageSettings = StorageSettings()
    tracking: Tracking = Tracking()

    @field_validator("teachers", mode="before")
    @classmethod
    def _one_group_or_several(cls, value: Any) -> Any:
        if isinstance(value, Mapping | Teachers):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _makes_sense(self) -> Experiment:
        count, method = self.teacher_count, self.student.method
        if count < 1:
            raise ValueError("teachers: at least one is needed")
        if self.pairs_members and self.student.members != count:
            raise ValueError(
                f"student.members is {self.student.members} but there are {count} teachers: {method} pairs "
                f"member m with teacher m; set student.members={count} or change teachers"
            )
        kind = self.perturbation.kind
        if kind in ("tdiv", "tdiv_sdiv") and count < 2:
            raise ValueError(f"perturbation.kind={kind} compares two teachers, but there is {count}")
        if kind == "tdiv_sdiv" and (method == "kd" or self.student.members < 2):
            raise ValueError(
                "perturbation.kind=tdiv_sdiv compares two members of the student; "
                "set student.members to 2 or more (and a method other than kd), or use tdiv"
            )
        if kind == "tdiv_sdiv" and self.student.members != count:
            raise ValueError(
                f"perturbation.kind=tdiv_sdiv compares member m with teacher m, but student.members is "
                f"{self.student.members} and there are {count} teachers; make them equal, or use tdiv"
            )
        smallest = min(t.batch_size for t in (self.student.training, *(g.training for g in self.teachers)))
        if self.cluster.most_workers > smallest:
            raise ValueError(
                f"cluster.workers_per_run is {self.cluster.most_workers} but a batch has {smallest} images"
            )
        return self

    @property
    def teacher_count(self) -> int:
        """How many teachers there are in all groups."""
        return sum(group.count for group in self.teachers)

    @property
    def pairs_members(self) -> bool:
        """Whether the student's method pairs member m with teacher m."""
        objective = self.distillation.objective
        return self.student.method != "kd" and objective in ("auto", "member_kd", "ekd", "ce_kd")

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.tracking.registered_model or f"ekd-{self.name}"

    def teacher_runs(self) -> tuple[TrainingRun, ...]:
        """The training runs of all teachers, in order."""
        groups = [group for group in self.teachers for _ in range(group.count)]
        return tuple(
            self._label_run(f"teacher-{i}", group.architecture, group.training)
            for i, group in enumerate(groups)
        )

    def control_run(self) -> TrainingRun:
        """One plain network of the student's architecture, trained alike, on labels alone."""
        return self._label_run("control", self.student.architecture, self.student.training)

    def student_run(self) -> TrainingRun:
        """The distillation."""
        return TrainingRun(
            name="student",
            role="student",
            seed=self.seed,
            architecture=self.student.architecture,
            training=self.student.training,
            augmentation=self.data.augmentation,
            student=self.student,
            distillation=self.distillation,
            perturbation=self.perturbation,
            teachers=self.teacher_runs(),
        )

    def _label_run(self, name: str, architecture: Architecture, training: Training) -> TrainingRun:
        return TrainingRun(
            name=name,
            role="label",
            seed=self.seed,
            architecture=architecture,
            training=training,
            augmentation=self.data.augmentation,
        )

    def resolved(self) -> dict[str, Any]:
        """The whole experiment with every default written out, as plain JSON values."""
        return self.model_dump(mode="json")

    def result_settings(self) -> dict[str, Any]:
        """The resolved experiment without what cannot change a result: where it runs and is kept."""
        kept = self.resolved()
        for key in ("name", "description", "cluster", "storage", "tracking"):
            del kept[key]
        for key in ("root", "download"):
            del kept["data"][key]
        return kept

    def result_hash(self) -> str:
        """SHA-256 of `result_settings` and the number of workers, which decides batch statistics."""
        settings = [self.result_settings(), self.resolved()["cluster"]["workers_per_run"]]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def default_run_id(self) -> str:
        """The id under which the same command finds the same run again."""
        return f"{self.name}-{self.result_hash()[:10]}"


def load_experiment(source: str, overrides: Iterable[str] = (), *, smoke: bool = False) -> Experiment:
    """The experiment named (packaged) or read (a path to YAML) with `key=value` overrides applied.

    Raises `ExperimentError`.
    """
    path = find_experiment(source)
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of keys, this is a {type(tree).__name__}")
    tree = json.loads(json.dumps(tree, default=str))  # parts that YAML aliases share become separate
    tree.setdefault("name", path.stem)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ExperimentError(f"--set {override}: write it as key=value, as in --set student.members=4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ExperimentError(
                f"--set {override}: not a YAML value: {' '.join(str(error).split())}"
            ) from None
        set_key(tree, key, value)
    experiment = build_experiment(tree)
    return make_small(experiment) if smoke else experiment


def build_experiment(tree: Mapping[str, Any]) -> Experiment:
    """Validate a nested dictionary; raises `ExperimentError` with one line."""
    try:
        # JSON's strict mode: a list may become a tuple, but a string never becomes a number.
        return Experiment.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ExperimentError(_explain(error, one_group=isinstance(tree.get("teachers"), Mapping))) from None


def set_key(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `tree["a"]["b"]` for `a.b`; digits index lists. Raises `ExperimentError` on a dead end."""
    *parents, last = dotted.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = _item(node, part, dotted)
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ExperimentError(f"{dotted}: {'.'.join(parents[: depth + 1])} has no keys below it")
    if isinstance(node, list):
        _item(node, last, dotted)
        node[int(last)] = value
    else:
        node[last] = value


def find_experiment(source: str) -> Path:
    """The YAML file of a packaged experiment's name or a path; raises `ExperimentError`."""
    if source in (names := packaged_experiments()):
        return PACKAGED / f"{source}.yaml"
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or "/" in source:
        if path.is_file():
            return path
        raise ExperimentError(f"{source}: there is no such file")
    near = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"packaged are {', '.join(names)}"
    raise ExperimentError(f"{source}: no packaged experiment of that name, and not a .yaml file; {hint}")


def packaged_experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def make_small(experiment: Experiment) -> Experiment:
    """The same experiment over two epochs of a few small batches: every component, no result."""
    batch = min(16, experiment.student.training.batch_size)
    classes = {"cifar100": 100, "tiny_imagenet": 200}.get(experiment.data.name, 10)
    images = max(4 * batch, 2 * classes)

    def small(training: Training) -> Training:
        warmup = min(1.0, training.schedule.warmup_epochs)
        return training.model_copy(
            update={
                "epochs": 2,
                "batch_size": batch,
                "checkpoint_every": 1,
                "evaluate_every": 1,
                "schedule": training.schedule.model_copy(update={"warmup_epochs": warmup}),
            }
        )

    data = experiment.data.model_copy(
        update={
            "train_size": images,
            "train_fraction": 1.0,
            "validation_size": min(images, experiment.data.validation_size),
            "test_size": min(images, experiment.data.test_size or images),
        }
    )
    return experiment.model_copy(
        update={
            "name": f"{experiment.name}-smoke",
            "data": data,
            "teachers": tuple(
                g.model_copy(update={"training": small(g.training)}) for g in experiment.teachers
            ),
            "student": experiment.student.model_copy(update={"training": small(experiment.student.training)}),
        }
    )


def _item(node: list[Any], part: str, dotted: str) -> Any:
    if not part.isdigit() or int(part) >= len(node):
        raise ExperimentError(f"{dotted}: {part} is not an index of a list of {len(node)}")
    return node[int(part)]


def _explain(error: ValidationError, *, one_group: bool) -> str:
    """All that is wrong, in one line; `one_group`: the file has `teachers.count`, not `teachers.0.count`."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_label(part)]
        shown = [part for i, part in enumerate(location) if not (one_group and i == 1 and part == 0)]
        key = ".".join(map(str, shown))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; {_nearest(location, shown[:-1])}"
        elif key and item["type"] != "value_error" and not isinstance(item["input"], dict | list | tuple):
            message = f"{message[0].lower()}{message[1:]}, not {item['input']!r}"
        found.setdefault(key, []).append(message)
    return "; ".join(f"{key}: {' or '.join(texts)}" if key else texts[0] for key, texts in found.items())


def _nearest(location: list[Any], shown_parents: list[Any]) -> str:
    known = _known_keys(Experiment, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {'.'.join([*map(str, shown_parents), near[0]])}?"
    return f"known here: {', '.join(known)}"


def _is_union_label(part: object) -> bool:
    return isinstance(part, str) and re.search(r"[\[\](),-]", part) is not None


def _known_keys(root: type[Settings], location: Iterable[Any]) -> list[str]:
    model: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        model = _settings_class(model.model_fields[part].annotation)
    return list(model.model_fields)


def _settings_class(annotation: Any) -> Any:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, Settings) else None
    if typing.get_origin(annotation) is Literal:
        return None
    return next((found for a in typing.get_args(annotation) if (found := _settings_class(a))), None)
