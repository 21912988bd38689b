"""Which images an experiment has, how they are split and augmented."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ekd_train.own_code import OwnCode, refuse_options
from ekd_train.settings.base import Fraction, NonNegative, NonNegativeFloat, Options, Positive, Settings

PositiveShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
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


class ColorJitter(Settings):
    """Random brightness, contrast, saturation and hue, as torchvision's `ColorJitter`, in this order."""

    brightness: Fraction = 0
    """Pixels are multiplied by a factor between 1 - this and 1 + this."""
    contrast: Fraction = 0
    """The distance from the mean grey is multiplied by a factor between 1 - this and 1 + this."""
    saturation: Fraction = 0
    """The distance from an image's own grey is multiplied by a factor between 1 - this and 1 + this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0
    """Turned by at most this share of the circle of colours; images of one channel have none."""


class RandAugment(Settings):
    """Random operations, each at the same magnitude (Cubuk et al. 2020), as torchvision's `RandAugment`."""

    operations: Annotated[int, Field(ge=0, le=4)] = 0
    """How many times in a row, on each image; 2 is usual; 0: none."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """How severely; 30 is the most."""


class Augmentation(Settings):
    """How training images are varied, a batch at a time on the device, in the order of the keys.

    All is drawn for each image of a global batch by seed and step: workers and restarts change nothing.
    Teachers and student see the same images; what perturbs them comes after.
    """

    crop: Literal["padded", "random_resized", "photograph"] = "padded"
    """A window of the image's size from the image with `crop_padding` around it; or a window of `scale`,
    3:4 to 4:3, brought to the image's size (Inception's crop): out of the square that `data.image_size`
    leaves, or out of the whole photograph, in its own pixels, as it is decoded (so images are packed)."""
    crop_padding: NonNegative = 0
    """Pixels of zero padding on each side before a random crop back to the image size; 0: no crop."""
    scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    """`random_resized`, `photograph`: smallest and largest share of the image's area."""
    flip: bool = False
    """Mirror each image horizontally with probability 1/2."""
    color_jitter: ColorJitter = ColorJitter()
    rand_augment: RandAugment = RandAugment()
    trivial_augment: bool = False
    """One random operation at a random magnitude (Müller, Hutter 2021), as torchvision's
    `TrivialAugmentWide`; without `rand_augment`."""
    random_erasing: Fraction = 0
    """With this probability a random rectangle of 2 to 33 % of the image is black (Zhong et al. 2020)."""
    mixup: NonNegativeFloat = 0
    """α of a share λ ~ Beta(α, α): an image becomes λ of itself and 1 - λ of another (Zhang et al. 2018), and
    so does its label where a loss uses labels; 0: never. FunMatch: 1."""
    cutmix: NonNegativeFloat = 0
    """α of a share λ: a rectangle of another image covers 1 - λ of it (Yun et al. 2019); 0: never. With
    `mixup`, each image is mixed in one way or the other."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Augmentation":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale: the smallest share comes first")
        if self.trivial_augment and self.rand_augment.operations:
            raise ValueError("trivial_augment and rand_augment are two ways of the same; use one")
        if self.crop != "padded" and self.crop_padding:
            raise ValueError("crop_padding is for crop: padded; leave one of them out")
        return self

    @property
    def variants(self) -> int:
        """How many different images cropping with padding and mirroring can make of one."""
        return (2 * self.crop_padding + 1) ** 2 * (2 if self.flip else 1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of the batch."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def varies_colours_or_shapes(self) -> bool:
        """Whether it does more to an image alone than to pad, crop and mirror it."""
        plain = Augmentation(
            crop_padding=self.crop_padding,
            flip=self.flip,
            scale=self.scale,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )
        return self != plain

    @property
    def endless(self) -> bool:
        """Whether every step makes images that no other does."""
        return self.mixes or self.varies_colours_or_shapes


class DataSettings(Settings):
    """Which images, how they are split, and how they are augmented in training."""

    name: DataName | OwnCode = "digits"
    """Or a function of your own, `package.module:name`, from these settings to an `ekd_train.data.Source`."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of a function of your own, beside the settings."""
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
    split_column: str | None = None
    """`table`: the column of the splits; null: `split`, if there is one."""
    image_size: Positive | None = None
    """Encoded images (`image_folder`, `table`, `hugging_face`, `tiny_imagenet`) become this many pixels
    square; null: their own size."""
    resize: Literal["shorter_side", "squash", "pad"] = "shorter_side"
    """How images come to `image_size`: the shorter side does, and the middle is cut out; both sides do,
    whatever the aspect ratio; or the longer side does, and `background` fills the rest."""
    centre_share: PositiveShare = 1.0
    """`shorter_side`: how much of it the middle shows; 0.875 is ImageNet's usual 224 of 256 pixels."""
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
    def _takes_options(self) -> "DataSettings":
        refuse_options(self.options, self.name)
        return self

    @model_validator(mode="after")
    def _can_pack(self) -> "DataSettings":
        if self.pack == "always" and (self.name not in LISTED or self.image_size is None):
            raise ValueError(f"pack=always is for {', '.join(LISTED)} with data.image_size")
        if self.augmentation.crop == "photograph" and (
            self.pack == "never" or self.name not in LISTED or self.image_size is None
        ):
            raise ValueError(
                f"augmentation.crop=photograph is for {', '.join(LISTED)} with data.image_size, and not for "
                "pack=never: crops are cut as images are decoded"
            )
        if self.centre_share < 1 and self.resize != "shorter_side":
            raise ValueError("centre_share is for resize=shorter_side")
        if self.pack_short_side is not None and (
            self.pack_short_side * self.centre_share < (self.image_size or 1) - 0.5
        ):
            raise ValueError("pack_short_side is less than image_size / centre_share")
        return self
