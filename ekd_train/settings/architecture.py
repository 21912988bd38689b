"""What a network is built as: its architecture, the weights that it starts from, the images that it wants."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ekd_train.own_code import refuse_options
from ekd_train.settings.base import LIST, Options, Positive, PositiveFloat, Settings


class Pretrained(Settings):
    """Weights that exist already, and the images that they want."""

    weights: str | None = None
    """A path or `s3://` URI of a state dict, with `#KEY` of one of several in it, `torchvision:ENUM.ENTRY`,
    `timm:NAME`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `run:RUN_ID/NAME`; null: they are drawn."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the bytes of their file (of timm's and of `FILE#KEY`, of the tensors). Filled in when they
    are read; one that is stated is compared first."""
    mean: Annotated[tuple[float, ...], Field(min_length=1), LIST] | None = None
    """Per channel, of pixels in [0, 1]; null: what the weights say, else the data's. Of grey images, three
    values give a network with three channels each of which is the grey one."""
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1), LIST] | None = None
    """Standard deviation per channel, of pixels in [0, 1], by which they are divided; beside `mean`."""
    image_size: Positive | None = None
    """Pixels on a side to which images are resized inside; null: what the weights say, else the data's."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std belong together: one value a channel each")
        if not all(0 <= mean <= 1 for mean in self.mean or ()) or not all(std <= 1 for std in self.std or ()):
            raise ValueError("mean and std are of pixels in [0, 1]: divide those of pixels up to 255 by 255")
        if self.weights is None and self.weights_sha256 is not None:
            raise ValueError("weights_sha256 is of weights, but there are none")
        return self

    @property
    def decided_otherwise(self) -> tuple[str, ...]:
        """Fields that an identity leaves out: where weights lie, once their bytes are known."""
        return ("weights",) if self.weights_sha256 is not None else ()


class Architecture(Pretrained):
    """A classifier by name: `wide_resnet`, `resnet` (CIFAR style), any torchvision classifier, or any of
    timm's as `timm/NAME` (`pip install 'ekd[timm]'`), or a class of your own, `package.module:name`."""

    name: str = "wide_resnet"
    """`wide_resnet`, `resnet`, a classifier of torchvision's, `timm/NAME`, or `package.module:name`."""
    depth: Annotated[int, Field(ge=1, le=2000)] | None = None
    """Layers: 6n+4 of `wide_resnet`, 6n+2 of `resnet`; null for other names."""
    width: PositiveFloat = 1.0
    """`wide_resnet`, `resnet`: channel multiplier of the three groups."""
    stem_channels: Positive = 16
    """`wide_resnet`, `resnet`: channels of the stem, and of the first group before `width`."""
    small_images: bool = False
    """torchvision names: replace the ImageNet stem by a 3x3 stride-1 convolution without max-pool."""
    pruned: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0
    """Share of every layer's channels that is taken out, for the student alone. An unpruned network is
    trained first; student and control start from what of it has the largest weights."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of a class of your own, beside those that it always gets."""

    @model_validator(mode="after")
    def _takes_options(self) -> Self:
        refuse_options(self.options, self.name)
        return self
