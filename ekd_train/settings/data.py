"""Which images an experiment has, how they are split and augmented."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ekd_train.own_code import OwnCode
from ekd_train.settings.base import NonNegative, Positive, Settings

DataName = Literal[
    "digits",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "tiny_imagenet",
    "image_folder",
    "table",
    "hugging_face",
]
ENCODED = ("tiny_imagenet", "image_folder", "table", "hugging_face")
"""Data whose images are files of any size, which `data.image_size` brings to one."""
LISTED = ("image_folder", "table", "hugging_face")
"""Of these a user's own, which can be packed."""


class Augmentation(Settings):
    """Random zero-padded crop and horizontal flip, applied to a batch on the device."""

    crop_padding: NonNegative = 0
    """Pixels of zero padding on each side before a random crop back to the image size; 0: no crop."""
    flip: bool = False
    """Mirror each image horizontally with probability 1/2."""

    @property
    def variants(self) -> int:
        """How many different images can be made of one."""
        return (2 * self.crop_padding + 1) ** 2 * (2 if self.flip else 1)


class DataSettings(Settings):
    """Which images, how they are split, and how they are augmented in training."""

    name: DataName | OwnCode = "digits"
    """Or a function of your own, `package.module:name`, from these settings to an `ekd_train.data.Source`."""
    root: str | None = None
    """Folder or `s3://bucket/prefix` that holds the files; not needed for `digits`."""
    download: bool = False
    """Let torchvision download what is missing under `root` (where it can)."""
    validation_size: Positive = 5000
    """Images taken from the end of the training split (for `digits`, which has no official
    split, nor an image folder, class-balanced) for selection and temperature."""
    test_size: Positive | None = None
    """Images of the test split to use; null: all. For `digits`: how many are held out as test."""
    train_size: Positive | None = None
    """Cap on the training images before `train_fraction`; null: all. Class-balanced."""
    train_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Class-balanced, nested subset of the training images."""
    path: str | None = None
    """`table`: the CSV or parquet file; `hugging_face`: a name on the hub, or a folder."""
    image_column: str | None = None
    """`table`, `hugging_face`: the column of the images; null: `path`, or the only one of images."""
    label_column: str | None = None
    """`table`, `hugging_face`: the column of the classes; null: `label`, or the only one of class labels."""
    image_size: Positive | None = None
    """Encoded images (`image_folder`, `table`, `hugging_face`, `tiny_imagenet`) become this many pixels
    square; null: their own size."""
    resize: Literal["shorter_side", "squash", "pad"] = "shorter_side"
    """How images come to `image_size`: the shorter side does, and the middle is cut out; both sides do,
    whatever the aspect ratio; or the longer side does, and `background` fills the rest."""
    background: Annotated[int, Field(ge=0, le=255)] = 255
    """Grey level that shows where an encoded image is transparent, and beside a padded one."""
    max_image_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = 25_000_000
    """Encoded images: a file that claims more is an error; at most Pillow's own limit."""
    pack: Literal["auto", "always", "never"] = "auto"
    """`image_folder`, `table`, `hugging_face`: whether images are packed into shards and decoded for each
    batch, instead of all at once into memory; auto: where they would not fit, decoded (docs/data.md)."""
    pack_short_side: Positive | None = None
    """Packed images are stored with the shorter side of that many pixels, at least `image_size`, as JPEG of
    quality 90 [ours]; null: the files as they are."""
    held_out_classes: tuple[str, ...] = ()
    """Classes, by name, whose images no split has: `ekd evaluate` tries whether the networks notice
    that they do not know them."""
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _can_pack(self) -> "DataSettings":
        if self.pack == "always" and (self.name not in LISTED or self.image_size is None):
            raise ValueError(f"pack=always is for {', '.join(LISTED)} with data.image_size")
        if self.pack_short_side is not None and self.pack_short_side < (self.image_size or 1):
            raise ValueError("pack_short_side is less than image_size")
        return self
