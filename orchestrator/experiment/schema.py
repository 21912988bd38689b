"""The whole typed description of one `ekd run`, and the one path by which values enter it.

A YAML file, `--set key=value` and a search all produce the same nested dictionary, changed
by dotted keys and validated once by `Experiment`. What is wrong is an `ExperimentError`
that names the key, the rule and, for an unknown key, the nearest known one.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from ekd_train.own_code import allow_named, is_own, module_of
from ekd_train.persistence.identity import differing, identity_of
from ekd_train.settings import (
    ENCODED,
    Architecture,
    Augmentation,
    DataSettings,
    Distillation,
    NonNegative,
    PerturbationSettings,
    Settings,
    Student,
    Training,
    TrainingRun,
)
from orchestrator.errors import ExperimentError
from orchestrator.experiment.controls import EvaluationSettings, check_papa
from orchestrator.experiment.explanation import explain, quoted
from orchestrator.experiment.infrastructure import (
    Cluster,
    StorageSettings,
    Tracking,
    checked_name,
    name_of_file,
    refuse_credentials_in,
)
from orchestrator.experiment.method_defaults import with_defaults_of_its_method
from orchestrator.experiment.packaged import find_experiment, read_experiment
from orchestrator.experiment.teachers import Teachers
from orchestrator.experiment.yaml_tree import apply_overrides, read_yaml

PLACES = (
    *("name", "description", "cluster", "storage", "tracking"),
    *("data.root", "data.download", "data.max_image_pixels"),
)
"""Keys that cannot change a result: where it runs and is kept, what it is called, what is refused."""

MOST_NETWORKS = 256
"""Teachers, or members of a student: more are a slip of the hand, and take minutes to plan."""


class Experiment(Settings):
    """One main job: teachers, student, how they are trained, measured, stored and recorded."""

    name: str
    """Default: the file's. Run ids and the registered model begin with it."""
    description: str = ""
    """What it is for, as `ekd experiments` shows it."""
    seed: NonNegative = 0
    """Seed of everything random: weights, batches, augmentation, perturbation."""
    data: DataSettings = DataSettings()
    teachers: tuple[Teachers, ...] = (Teachers(),)
    """One group or a list of groups: a list may mix architectures."""
    student: Student = Student()
    distillation: Distillation = Distillation()
    perturbation: PerturbationSettings = PerturbationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    cluster: Cluster = Cluster()
    storage: StorageSettings = StorageSettings()
    tracking: Tracking = Tracking()
    code: dict[str, str] = Field(default_factory=dict)
    """Written by `load_experiment`: modules of one's own that are named, and the hashes of their sources."""

    @field_validator("name")
    @classmethod
    def _valid_name(cls, value: str) -> str:
        return checked_name(value)

    @field_validator("teachers", mode="before")
    @classmethod
    def _one_group_or_several(cls, value: Any) -> Any:
        if isinstance(value, Mapping | Teachers):
            return (value,)
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"write one group {{count: ..., architecture: ..., training: ...}} or a list of groups, "
                f"not {quoted(value)}"
            )
        return tuple(value)

    @model_validator(mode="after")
    def _makes_sense(self) -> "Experiment":
        refuse_credentials_in({"data.root": self.data.root, "data.path": self.data.path})
        for holder in (*self.teachers, self.student.architecture):
            refuse_credentials_in({"weights": holder.weights})
        count, method = self.teacher_count, self.student.method
        if count < 1:
            raise ValueError("teachers: at least one is needed")
        if max(count, self.student.members) > MOST_NETWORKS:
            raise ValueError(f"teachers and student.members: at most {MOST_NETWORKS} are possible")
        objective = self.distillation.objective
        if method == "kd" and count > 1 and objective in ("member_kd", "ekd", "ce_kd"):
            raise ValueError(
                f"distillation.objective={objective} pairs members with teachers, but student.method=kd has "
                "no members; use mean_kd, dkd, dist or proxy_end2, or another method"
            )
        weights = self.distillation.ekd
        if objective in ("auto", "ekd") and weights.feature > 0 and method != "ekd":
            raise ValueError(
                "distillation.ekd.feature compares branches with teachers: it needs student.method=ekd"
            )
        rotating = self.distillation.assignment == "rotating"
        if rotating and (not self.pairs_members or weights.feature > 0):
            raise ValueError(
                "distillation.assignment=rotating is about members that are paired with teachers: it needs a "
                "student.method with members, an objective that pairs them, and no feature term"
            )
        if rotating and self.student.members > count:
            raise ValueError(
                f"student.members is {self.student.members} but there are {count} teachers to rotate; "
                f"set student.members={count} or fewer"
            )
        if self.pairs_members and not rotating and self.student.members != count:
            raise ValueError(
                f"student.members is {self.student.members} but there are {count} teachers: {method} pairs "
                f"member m with teacher m; set student.members={count} or change teachers"
            )
        for index, group in enumerate(self.teachers):
            if group.architecture.pruned and not group.given:
                key = "teachers" if len(self.teachers) == 1 else f"teachers.{index}"
                raise ValueError(
                    f"{key}.architecture.pruned: only the student can be pruned; leave it out "
                    "(student.architecture.pruned is for that)"
                )
        check_papa(self.student, self.evaluation)
        kind = self.perturbation.kind
        if kind in ("tdiv", "tdiv_sdiv") and count < 2:
            raise ValueError(f"perturbation.kind={kind} compares two teachers, but there is {count}")
        if kind == "tdiv_sdiv" and (method == "kd" or self.student.members < 2):
            raise ValueError(
                "perturbation.kind=tdiv_sdiv compares two members of the student; "
                "set student.members to 2 or more (and a method other than kd), or use tdiv"
            )
        if kind == "tdiv_sdiv" and not rotating and self.student.members != count:
            raise ValueError(
                f"perturbation.kind=tdiv_sdiv compares member m with teacher m, but student.members is "
                f"{self.student.members} and there are {count} teachers; make them equal, or use tdiv"
            )
        own_size = self.data.name in ENCODED or is_own(self.data.name)
        if self.data.image_size is not None and not own_size:
            raise ValueError(
                f"data.image_size: images of {self.data.name} keep their size; leave it out (it is for "
                f"{', '.join(ENCODED)})"
            )
        trained = (group.training for group in self.teachers if not group.given)
        smallest = min(training.batch_size for training in (self.student.training, *trained))
        if self.cluster.most_workers > smallest:
            raise ValueError(
                f"cluster.workers_per_run is {self.cluster.most_workers} but a batch has {smallest} images"
            )
        try:
            self.student_run()
        except ValidationError as error:  # whose text has several lines, and the whole run
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def own_modules(self) -> list[str]:
        """The modules of `package.module:name` that it names."""
        names = {group.architecture.name for group in self.teachers} | {self.student.architecture.name}
        names |= {self.data.name, self.distillation.objective, self.perturbation.kind}
        return sorted({module_of(name) for name in names if is_own(name)})

    @property
    def teacher_count(self) -> int:
        """How many teachers there are in all groups."""
        return sum(group.count for group in self.teachers)

    @property
    def pairs_members(self) -> bool:
        """Whether the student's method pairs member m with teacher m."""
        objective = self.distillation.objective
        unpaired = ("kd", "papa") if objective == "auto" else ("kd",)
        return self.student.method not in unpaired and self.distillation.pairs

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.tracking.registered_model or f"ekd-{self.name}"

    def teacher_runs(self) -> tuple[TrainingRun, ...]:
        """The training runs of all teachers, in order."""
        groups = [group for group in self.teachers for _ in range(group.count)]
        runs = [self._label_run(f"teacher-{i}", g.wanted, g.training) for i, g in enumerate(groups)]
        return tuple(
            run.model_copy(update={"role": "given", "augmentation": Augmentation()}) if group.given else run
            for run, group in zip(runs, groups, strict=True)
        )

    def unpruned_run(self) -> TrainingRun | None:
        """What a pruned student and its control start from: its architecture before pruning, trained as
        the control is; None for a student that is not pruned."""
        architecture = self.student.architecture
        if not architecture.pruned:
            return None
        whole = architecture.model_copy(update={"pruned": 0.0})
        return self._label_run("unpruned", whole, self.student.training)

    def control_run(self) -> TrainingRun:
        """One plain network of the student's architecture, trained alike, on labels alone; of a pruned
        student the same pruned network, trained on."""
        run = self._label_run("control", self.student.architecture, self.student.training)
        return run.model_copy(update={"starts_from": self.unpruned_run()})

    def student_run(self) -> TrainingRun:
        """The distillation."""
        return TrainingRun(
            name="student",
            role="student",
            seed=self.seed,
            architecture=self.student.architecture,
            training=self.student.training,
            augmentation=self.data.augmentation,
            student=self.student.model_copy(update={"average": "mean"}),  # decided after training
            distillation=self.distillation,
            perturbation=self.perturbation,
            teachers=self.teacher_runs(),
            starts_from=self.unpruned_run(),
            code=self._code(
                self.student.architecture.name, self.distillation.objective, self.perturbation.kind
            ),
        )

    def _label_run(self, name: str, architecture: Architecture, training: Training) -> TrainingRun:
        return TrainingRun(
            name=name,
            role="label",
            seed=self.seed,
            architecture=architecture,
            training=training,
            augmentation=self.data.augmentation,
            code=self._code(architecture.name),
        )

    def _code(self, *names: str) -> dict[str, str]:
        own = [module_of(name) for name in names if is_own(name)]
        return {module: self.code[module] for module in own if module in self.code}

    def resolved(self) -> dict[str, Any]:
        """The whole experiment with every default written out, as plain JSON values."""
        return self.model_dump(mode="json")

    def result_settings(self) -> dict[str, Any]:
        """What decides results, as far as it differs from the defaults, as nested dictionaries."""
        return differing(self, without=PLACES)

    def result_hash(self) -> str:
        """Identity of `result_settings` and the number of workers, which decides batch statistics."""
        return identity_of(self.result_settings(), self.cluster.workers_per_run)

    def default_run_id(self) -> str:
        """The id under which the same command finds the same run again."""
        return f"{self.name}-{self.result_hash()[:10]}"


def load_experiment(source: str, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment named (packaged) or read (a path to YAML) with `key=value` overrides applied.

    Raises `ExperimentError`; `OwnCodeError` for a module of one's own that is not there.
    """
    path = find_experiment(source)
    tree = read_yaml(read_experiment(path), str(path))
    if not isinstance(tree, dict):
        found = "the file is empty" if tree is None else f"this is {quoted(tree)}"
        raise ExperimentError(f"{path}: an experiment is a mapping of keys, but {found}")
    apply_overrides(tree, overrides)
    if "name" not in tree:
        tree["name"] = name_of_file(path)
    return named_by_its_user(tree)


def named_by_its_user(tree: Mapping[str, Any]) -> Experiment:
    """As `build_experiment`, of what a user wrote: its modules may run, its method's defaults hold."""
    experiment = build_experiment({**tree, "code": {}})
    student = with_defaults_of_its_method(experiment.student, experiment.distillation)
    return experiment.model_copy(update={"student": student, "code": allow_named(experiment.own_modules)})


def build_experiment(tree: Mapping[str, Any]) -> Experiment:
    """Validate a nested dictionary; raises `ExperimentError` with one line."""
    try:
        # JSON's strict mode: a list may become a tuple, but a string never becomes a number.
        return Experiment.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        one_group = isinstance(tree.get("teachers"), Mapping)
        raise ExperimentError(explain(error, Experiment, one_group=one_group)) from None
