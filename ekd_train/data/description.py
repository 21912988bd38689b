"""What is known of a data set without its images."""

from pydantic import BaseModel, ConfigDict


class ImageSpec(BaseModel):
    """What a network is built for: shape and statistics of the images, and how many classes there are."""

    model_config = ConfigDict(frozen=True)

    num_classes: int
    image_shape: tuple[int, int, int]
    """`(channels, height, width)` of one image."""
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels in [0, 1]; None: the network does not normalise."""
    std: tuple[float, ...] | None = None


class DataDescription(ImageSpec):
    """Sizes, shape, classes and fingerprint of a data set, for manifests, plans and reports."""

    name: str
    train: int
    validation: int
    test: int
    class_names: tuple[str, ...]
    """In the order of the logits."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """`ekd_train.data.dataset.Dataset.fingerprint`: SHA-256 over the exact images and labels."""

    decoder: str | None = None
    """Of packed images, what decodes them, with its version: the fingerprint is of encoded bytes."""

    @property
    def shape_text(self) -> str:
        """Such as `1x28x28`."""
        return "x".join(map(str, self.image_shape))
