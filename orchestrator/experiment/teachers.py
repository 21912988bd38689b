"""A group of teachers, trained or given."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from ekd_train.settings import Architecture, Positive, Pretrained, Training


class Teachers(Pretrained):
    """A group of teachers of one architecture, trained alike from different seeds; or, with `weights`, one
    that exists already and is used as it is."""

    count: Positive = 4
    """Teachers in this group. With `weights`: 1 unless more are asked for, which `fine_tune` then makes."""
    architecture: Architecture = Architecture()
    """Of a state dict: the network that it belongs to."""
    training: Training = Training()
    fine_tune: bool = False
    """Train on from `weights`, each of the group from another seed; a head of other classes is made new."""

    @model_validator(mode="before")
    @classmethod
    def _one_of_what_exists(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("weights") is not None:
            return {"count": 1, **value}
        return value

    @model_validator(mode="after")
    def _trained_or_not(self) -> Self:
        if self.weights is None and self.fine_tune:
            raise ValueError("fine_tune: from which weights? Name them in weights")
        if self.given and self.count > 1:
            raise ValueError(
                f"count is {self.count}, but these weights are one teacher; leave count out, or set "
                "fine_tune: true to train several from them"
            )
        if self.given and self.training != Training():
            raise ValueError("training: weights are used as they are; leave it out, or set fine_tune: true")
        wanted = [name for name in Pretrained.model_fields if getattr(self.architecture, name) is not None]
        if wanted:
            raise ValueError(
                f"architecture.{wanted[0]}: of teachers it stands beside architecture, not in it"
            )
        return self

    @property
    def given(self) -> bool:
        """Whether it exists already and is used as it is."""
        return self.weights is not None and not self.fine_tune

    @property
    def wanted(self) -> Architecture:
        """The architecture, with the weights and what they want of images."""
        values = {name: getattr(self, name) for name in Pretrained.model_fields}
        return self.architecture.model_copy(update=values)
