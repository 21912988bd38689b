"""What all settings have in common: strictness, and the ranges of numbers."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]  # what float32 can hold
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
"""Below 1e-3 a softmax is an argmax, to float32. Toward 1000 τ² KL has become what it is of any higher τ:
half the variance of the logits' difference. Nothing is gained there, and τ² multiplies what rounding left of
probabilities that are all alike."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Of a tuple within a group of teachers, where pydantic no longer knows that lists came from JSON."""

_Scalar = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str
Options = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], _Scalar | Annotated[tuple[_Scalar, ...], LIST]
]
"""Keyword arguments of code of one's own."""


class Settings(BaseModel):
    """Base of every settings class: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )
