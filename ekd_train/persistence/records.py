"""What is stored as JSON, as models: each has a format number and is checked when it is read."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ekd_train.errors import EkdError


class UnreadableRecord(EkdError, ValueError):
    """A stored object is damaged or something else; one line names it and what to do."""


class NewerRecord(EkdError, ValueError):
    """A stored object is whole, and of a newer version: nothing takes its place; one line names both."""


class Record(BaseModel):
    """Base of what is stored. Its `format` grows when an older version could not read it any more.

    Unknown keys are left out: a newer version of the same format may have written them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    WHAT: ClassVar[str] = "such a record"
    """What it is, for messages about one that is not."""

    format: int = 1

    @classmethod
    def parse(cls, content: Any, where: str) -> Self:
        """The record in `content`, which was read from `where`. Raises `UnreadableRecord` and `NewerRecord`.

        Content without a format is of format 1.
        """
        if not isinstance(content, Mapping):
            raise UnreadableRecord(f"{where}: not {cls.WHAT}; restore the file")
        found, newest = content.get("format", 1), cls.model_fields["format"].default
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise UnreadableRecord(f"{where}: not {cls.WHAT} (format: {str(found)[:40]!r}); restore the file")
        if found > newest:
            code = content.get("code_version")
            version = f" ({code[:60]})" if isinstance(code, str) else ""
            raise NewerRecord(
                f"{where}: format {found} is of a newer version of ekd{version}, this one reads up to "
                f"{newest}; use that version: the file is left as it is"
            )
        try:
            return cls.model_validate({**content, "format": found})
        except ValidationError as error:
            raise UnreadableRecord(
                f"{where}: not {cls.WHAT} ({first_problem(error)}); restore the file"
            ) from None


def first_problem(error: ValidationError) -> str:
    """The first of what is wrong, as one line: the dotted key, and why."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    return f"{place}: {message}" if place else message


class NetworkRecord(Record):
    """How a finished network came about; written after its weights."""

    WHAT = "the record of a network"

    format: int = 3
    """2: the weights lie beside the record, as those of an average still do."""
    identity: str
    """`ekd_train.persistence.networks.Networks.identity` of the training run; of an average, the experiment's
    hash."""
    trained_by: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,200}$")] = ""
    """The run that trained it, and after a slash the trial, of a search; of an average or format 2: empty."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the file of its weights."""
    best: dict[str, float] = {}
    """The record of the epoch whose weights were kept; empty for an average."""
    history: tuple[dict[str, float], ...] = ()
    """One record for each validated epoch, as `ekd_train.evaluation.evaluate.validate` names the values."""
    seconds: float = 0.0
    """Of training, all starts together."""
    ended: float | None = None
    """When training did, in seconds since 1970; None: an average, or not recorded."""
    workers: int = 1
    precision: str | None = None
    """In which it was trained; None: an average, or not recorded."""
    averaged_from: str | None = None
    member_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """Of an average: how much each member counts, where they do not count alike."""

    def reused_by(self, run_id: str) -> str | None:
        """What `trained_by` is if `run_id` did not train it itself, as one of its own training runs."""
        return None if self.trained_by in ("", run_id) else self.trained_by


class MemberWeights(BaseModel):
    """What a `MemberWeighing` found."""

    model_config = ConfigDict(frozen=True)

    member_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None
    """One for each member, their sum 1; None: the student has no members."""


class Cost(BaseModel):
    """What one forward of a predictor costs."""

    model_config = ConfigDict(frozen=True)

    params: Annotated[int, Field(ge=0, lt=1 << 63)]
    macs: Annotated[int, Field(ge=0, lt=1 << 63)]
    """Multiply-accumulates for one image."""
    latency_ms: dict[str, float] | None = None
    """Median by batch size; None: not measured."""
    latency_quartiles_ms: dict[str, tuple[float, float]] | None = None


class Latency(BaseModel):
    """Where latencies were measured."""

    model_config = ConfigDict(frozen=True)

    device: str
    threads: int
    torch: str


class Connectivity(BaseModel):
    """Validation NLL along straight lines between members' weights, and from each to the average."""

    model_config = ConfigDict(frozen=True)

    images: int
    points: tuple[float, ...]
    """Where on each line: 0 at its start, 1 at its end."""
    between: tuple[tuple[float, ...], ...]
    """From each member to the next."""
    to_average: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _whole_lines(self) -> Self:
        if any(len(line) != len(self.points) or not line for line in (*self.between, *self.to_average)):
            raise ValueError("a line has another number of losses than of points")
        return self

    @property
    def barrier(self) -> float:
        """The most that a line between members lies above its ends' straight line; at least 0."""
        return max((self._height(line) for line in self.between), default=0.0)

    @property
    def barrier_to_average(self) -> float:
        """The same from members to the average."""
        return max((self._height(line) for line in self.to_average), default=0.0)

    def _height(self, line: tuple[float, ...]) -> float:
        straight = [line[0] + point * (line[-1] - line[0]) for point in self.points]
        return max(loss - level for loss, level in zip(line, straight, strict=True))


class PredictionsRecord(Record):
    """What was measured beside the predictions; `evaluation/predictions.json`, written after these."""

    WHAT = "the record of predictions"

    format: int = 2
    """1: all tensors are in one file."""
    sha256: str = ""
    """Of the file of predictions, in format 1."""
    objects: dict[str, tuple[str, ...]] = {}
    """SHA-256 of the objects of every tensor, block by block."""
    holds: Literal["probabilities", "logits"] = "probabilities"
    """What the file has of every predictor; probabilities in runs of versions that did not note it."""
    cost: dict[str, Cost]
    """By predictor."""
    latency: Latency | None = None
    connectivity: Connectivity | None = None
    """None: of a student without members, or of versions that did not measure it."""


class StoredTensors(BaseModel):
    """One stored object and the SHA-256 of its bytes, in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    key: str
    sha256: str


class CheckpointRecord(Record):
    """Commits a checkpoint: written after its tensors."""

    WHAT = "the record of a checkpoint"

    epoch: int
    """Whole epochs done."""
    step: int = 0
    """Steps done of the next."""
    identity: str
    """Of the training run."""
    sha256: str
    """Of the file of its tensors."""
    names: tuple[str, ...] | None = None
    """Of its tensors, what the optimiser keeps among them; None: of an earlier version."""
    best: StoredTensors | None = None
    """The weights of the best epoch so far."""
    state: dict[str, Any]
    """What else the training loop goes on from."""
