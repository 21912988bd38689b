"""What the manifest of a run holds: what each of its stages has made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from ekd_train.data.description import DataDescription
from ekd_train.persistence.records import Connectivity, Cost, Latency, Record, first_problem

FORMAT = 2
"""1: identities were hashes of all settings, so networks of unfinished runs are not found again."""


class Output(BaseModel):
    """Base of the outputs: frozen; unknown keys are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Prepared(Output):
    """Stage `prepare`."""

    data: DataDescription
    command: str | None = None
    """As the user typed it; None: not recorded."""


class Source(Output):
    """The weights, older than the run, that a network is or started from."""

    weights: str
    """As the experiment names them."""
    sha256: str
    used: Literal["as they are", "to start from"]


class TrainedNetwork(Output):
    """One training run of the stages `teachers`, `control` and `distil`."""

    weights_sha256: str
    """Of the file of its weights."""
    best_epoch: int
    """Whose weights were kept."""
    validation_accuracy: float
    """Of that epoch."""
    train_seconds: float
    """Spent on it by this run."""
    reused_from: str | None = None
    """The run, and after a slash the trial of a search, that trained it; None: this run did."""
    workers: int
    precision: str | None = None
    source: Source | None = None
    """None: its weights were drawn."""


Trained = dict[str, TrainedNetwork]
"""By training run."""


class Averaged(Output):
    """Stage `average`."""

    network: str
    """Its key in the run's storage, without suffix."""
    weights_sha256: str
    """Of the network's state dict."""
    member_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """How much each member counts in it, where they do not count alike."""


class Predictor(Cost):
    """One measured predictor; what was not measured is empty."""

    temperature: float = 1.0
    """Fitted on the validation images."""
    validation: dict[str, float] = Field(default_factory=dict)
    """By metric."""
    test: dict[str, float] = Field(default_factory=dict)
    recall_per_class: tuple[float | None, ...] = ()
    """On the test images, in the order of the logits; None: the class has none. Empty for a teacher, and in
    runs of versions that did not keep it."""
    diversity: dict[str, float] | None = None
    """On the test images, of a predictor with several members."""


class Gain(Output):
    """An accuracy minus another one on the same images, with its 95 % interval (paired bootstrap)."""

    value: float
    low: float
    high: float


class Evaluated(Output):
    """Stage `evaluate`."""

    predictors: dict[str, Predictor]
    latency: Latency | None = None
    to_control: Gain | None = None
    """Of the averaged student to the control on the test images; None: by a version that did not note it."""
    gain: Gain | None = None
    """Of a search's student to that of the experiment as it stands, on validation images: of the network that
    is registered to the one that `ekd run` would register. Its trial was chosen on these images, so it is the
    most that can be expected of others. None: nothing was searched, nothing better found, or not known."""
    connectivity: Connectivity | None = None
    """Of the student's members; None: it has none, or it was not measured."""


class Registered(Output):
    """Stage `register`: the version in the model registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    """When it was registered."""
    promotion: str
    """Whether it became champion, and why; when it was registered too."""
    uri: str
    """`models:/NAME/VERSION`."""
    archive_sha256: str = ""
    """Of the registered archive's bytes; empty in runs of versions that did not note it."""
    experiment_id: str = ""
    """MLflow's, that has the run; empty as above."""

    @property
    def promotion_then(self) -> str:
        """`promotion` for whoever reads it later, when the alias may have moved."""
        return f"{self.promotion} (when registered; `ekd models {self.name}` says what it is now)"


class Reported(Output):
    """Stage `report`: where summary and page are."""

    summary: str
    report: str


class TrialOutcome(Output):
    """One trial of a search that has a result."""

    trial: str
    values: dict[str, Any]
    """Dotted experiment keys and their values."""
    score: float
    """Validation accuracy, the mean over its seeds."""
    nll: float | None = None
    epochs: int | None = None
    cost: float = 0.0
    """Forward-pass equivalents of a whole training, for each image and seed."""


class Searched(Output):
    """Stage `search`."""

    best: TrialOutcome
    baseline: TrialOutcome | None = None
    """The experiment as it stands; None: not trained in full, or of a version that did not try it."""
    baseline_ended: str | None = None
    """How that trial ended: a `TrialStatus`, or `waiting`; None: of a version that did not note it."""
    pareto: tuple[TrialOutcome, ...] = ()
    """Cheapest first."""
    trials: dict[str, int] = Field(default_factory=dict)
    """How many ended how."""
    seconds: float = 0.0


OUTPUTS: dict[str, Any] = {
    "prepare": Prepared,
    "teachers": Trained,
    "search": Searched,
    "control": Trained,
    "distil": Trained,
    "average": Averaged,
    "evaluate": Evaluated,
    "register": Registered,
    "report": Reported,
}
"""Stage -> what it makes."""

_PARSERS = {stage: TypeAdapter(kind) for stage, kind in OUTPUTS.items()}


class Stage(Output):
    """A stage that is done."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    outputs: Any
    """As `OUTPUTS` says."""


class ManifestContent(Record):
    """What is known of a run."""

    WHAT = "the manifest of a run"

    format: int = FORMAT
    run_id: str
    experiment: str
    """Its name."""
    result_hash: str
    """`Experiment.result_hash`; after a search, of the best trial's."""
    data_fingerprint: str
    code_version: str
    created: float
    """In seconds since 1970, as `updated`."""
    status: str
    """`running`, or how the last driver ended: a value of `STATES`."""
    stages: dict[str, Stage] = Field(default_factory=dict)
    """Those that are done, in the order in which they were."""
    mlflow: dict[str, str] = Field(default_factory=dict)
    """MLflow run of `parent` and, once the student is registered, of every training run."""
    updated: float

    @field_validator("stages")
    @classmethod
    def _typed(cls, stages: dict[str, Stage]) -> dict[str, Stage]:
        return {
            name: stage.model_copy(update={"outputs": parsed_outputs(name, stage.outputs)})
            for name, stage in stages.items()
        }

    def done(self, stage: str) -> bool:
        """Whether the stage was finished, now or by an earlier start."""
        return stage in self.stages

    @property
    def prepared(self) -> Prepared:
        """What the stage `prepare` made; this and the following raise `KeyError` if it is not done."""
        return self._outputs("prepare")

    @property
    def trained(self) -> Trained:
        """Every training run of the stages `teachers`, `control` and `distil` that are done."""
        made: Trained = {}
        for stage in ("teachers", "control", "distil"):
            made |= self._outputs(stage) if self.done(stage) else {}
        return made

    @property
    def teachers(self) -> Trained:
        """What the stage `teachers` made: the teachers, and what a pruned student starts from."""
        return self._outputs("teachers")

    @property
    def searched(self) -> Searched:
        """What the stage `search` made."""
        return self._outputs("search")

    @property
    def averaged(self) -> Averaged:
        """What the stage `average` made."""
        return self._outputs("average")

    @property
    def evaluated(self) -> Evaluated:
        """What the stage `evaluate` made."""
        return self._outputs("evaluate")

    @property
    def registered(self) -> Registered:
        """What the stage `register` made."""
        return self._outputs("register")

    def _outputs(self, stage: str) -> Any:
        return self.stages[stage].outputs


def parsed_outputs(stage: str, outputs: Any) -> Any:
    """`outputs` as the model that the stage's are; of a stage that is not known, a mapping as it is."""
    try:
        if stage in _PARSERS:
            return _PARSERS[stage].validate_python(outputs)
        if isinstance(outputs, dict):
            return outputs
    except ValidationError as error:
        raise ValueError(f"{stage}: {first_problem(error)}") from None
    raise ValueError(f"{stage}: its outputs are not a mapping")
