"""What happened in a worker group, as its workers report it to the driver."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ekd_train.persistence.records import MemberWeights, NetworkRecord, PredictionsRecord
from orchestrator.runtime.retry import FailureKind


class GroupEvent(BaseModel):
    """Base of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    """The job's name."""
    group: int = 0


class Started(GroupEvent):
    """The run begins, or continues after `epoch` epochs and `steps` of the next one."""

    kind: Literal["started"] = "started"
    epoch: int
    steps: int = 0


class Advanced(GroupEvent):
    """`step` of `steps` of the whole run is done."""

    kind: Literal["progress"] = "progress"
    epoch: int
    step: int
    steps: int
    loss: float
    images_per_s: float


class Validated(GroupEvent):
    """One validated epoch, as `ekd_train.evaluation.evaluate.validate` names the values."""

    kind: Literal["epoch"] = "epoch"
    record: dict[str, float]


class Warned(GroupEvent):
    """Something a person should see."""

    kind: Literal["warning"] = "warning"
    message: str


class Done(GroupEvent):
    """The job is done and what it made is stored."""

    kind: Literal["done"] = "done"
    record: NetworkRecord | MemberWeights | PredictionsRecord | dict[str, float | str]
    """The last: of a step of a trial; `failure` says why it cannot go on."""


class Failed(GroupEvent):
    """A worker raised `error`, the name of an exception."""

    kind: Literal["failed"] = "failed"
    failure: FailureKind
    out_of_memory: bool
    error: str
    message: str

    @property
    def reason(self) -> str:
        """In one line."""
        return f"{self.error}: {self.message}"


class Restarted(GroupEvent):
    """The worker group is started again, and nobody reported why."""

    kind: Literal["restarted"] = "restarted"


Event = Annotated[
    Started | Advanced | Validated | Warned | Done | Failed | Restarted, Field(discriminator="kind")
]
