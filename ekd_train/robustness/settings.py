"""The typed description of an evaluation beyond the test set; imports neither torch nor ray."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ekd_train.settings import DataName, NonNegative, Positive, Settings

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "fog",
    "brightness",
    "contrast",
    "elastic",
    "pixelate",
    "jpeg",
]
Severity = Annotated[int, Field(ge=1, le=5)]

FAMILIES: dict[str, tuple[CorruptionName, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}
"""The families of Hendrycks and Dietterich (2019). Their frost is made of photographs, which are not here."""


class RobustnessSettings(Settings):
    """What `ekd evaluate` measures of a finished run. Nothing of it feeds back into the run."""

    seed: NonNegative = 0
    """Seed of the corruptions' random choices."""
    images: Positive | None = None
    """A class-balanced subset of the test images to corrupt; null: all of them."""
    corruptions: Annotated[tuple[CorruptionName, ...], Field(min_length=1)] = tuple(
        name for family in FAMILIES.values() for name in family
    )
    """Ways in which the test images are corrupted; default: all that there are."""
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    """How severely, on the benchmark's scale: 1 is slight, 5 is severe."""
    outside: Literal[DataName, "auto", "none", "held_out"] = "auto"
    """Data set whose images belong to none of the classes, or `held_out`: the run's own
    `data.held_out_classes`. `auto`: these if the run has any, else `fashion_mnist` for `digits`, where
    its files are, and `digits` for every other data set."""
    outside_root: str | None = None
    """Folder of that data set's files."""
    data_root: str | None = None
    """Folder of the run's own files on this machine; null: as in the experiment."""

    @field_validator("corruptions", "severities")
    @classmethod
    def _each_once(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each only once")
        return value
