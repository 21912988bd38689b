"""What one key may be: domains, and how to divide them into the points of a grid."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from ekd_train.settings import Settings


class Choice(Settings):
    """One of some values, in no order that matters."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> "Choice":
        if any(value in self.choice[:i] for i, value in enumerate(self.choice)):
            raise ValueError("choice: a value is there twice")
        return self

    def points(self, count: int) -> list[Any]:
        """All values, whatever `count` is."""
        return list(self.choice)

    @property
    def values(self) -> tuple[Any, ...]:
        """What to look at to know that all values are allowed."""
        return self.choice

    def has(self, value: Any) -> bool:
        """Whether it may be `value`."""
        return value in self.choice

    def describe(self) -> str:
        """The domain in a few characters."""
        return ", ".join(map(str, self.choice))


class _Range(Settings):
    reason: Annotated[str, Field(min_length=1)]

    @property
    def ends(self) -> tuple[float, float]:
        """`(low, high)`, both included: the value of the key that the kind is named after."""
        return next(getattr(self, name) for name in type(self).model_fields if name != "reason")

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        low, high = self.ends
        if not low < high:
            raise ValueError("write [low, high] with low < high")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """What to look at to know that all values are allowed: bounds are intervals."""
        return self.ends

    def has(self, value: Any) -> bool:
        """Whether it may be `value`."""
        return isinstance(value, int | float) and self.ends[0] <= value <= self.ends[1]

    def describe(self) -> str:
        """The domain in a few characters."""
        return f"{self.ends[0]:g} to {self.ends[1]:g}"


class Uniform(_Range):
    """A number between two, all equally likely."""

    uniform: tuple[float, float]

    def points(self, count: int) -> list[float]:
        """`count` numbers at equal distances, the ends among them."""
        return [float(x) for x in np.linspace(*self.uniform, count)]


class LogUniform(_Range):
    """A positive number between two, its logarithm uniform."""

    log_uniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

    def points(self, count: int) -> list[float]:
        """`count` numbers at equal ratios, the ends among them."""
        return [float(x) for x in np.geomspace(*self.log_uniform, count)]

    def describe(self) -> str:
        """The domain in a few characters."""
        return f"{super().describe()}, logarithmic"


class Integer(_Range):
    """A whole number between two, both included, all equally likely."""

    integer: tuple[int, int]

    def points(self, count: int) -> list[int]:
        """At most `count` numbers, spread evenly, the ends among them."""
        return sorted({round(x) for x in np.linspace(*self.integer, count)})

    def describe(self) -> str:
        """The domain in a few characters."""
        return f"{self.integer[0]} to {self.integer[1]}"


Domain = Choice | Uniform | LogUniform | Integer


def whole_numbers(domain: Domain) -> list[int]:
    """The whole numbers among a domain's values; the others are for `check_space` to refuse or allow."""
    return [value for value in domain.values if isinstance(value, int)]
