"""One encoded image: what it says of itself, and its pixels."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ekd_train.settings import DataSettings

from .errors import DataError
from .image_files import Encoded

Cut = Callable[[np.ndarray], np.ndarray]
"""From a decoded image, uint8 `(h, w)` or `(h, w, 3)`, to what is shown of it, `(c, size, size)`."""

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
"""What Pillow may take a file for, whatever its name: readers of other formats start programs (EPS)."""

PNG_BITS = 24
"""Where a PNG says how many bits a channel has; Pillow shows 16 as 8 and keeps the higher ones."""

MOST_ENCODED_BYTES = 1 << 28
"""Of one image: some readers (WebP) take all of a file at once, whatever they then find in it."""

JPEG_QUALITY = 90
"""Of images that are stored smaller than they came."""


def decoder() -> str:
    """What decodes images here, with its version, and that of its JPEG library."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def header(encoded: Encoded, max_pixels: int) -> tuple[str, tuple[int, int]]:
    """Pillow's mode of an image and its `(width, height)` as stored; it is not decoded.

    Raises `DataError`: no image, of more than `max_pixels`, or more than 8 bits a channel.
    """
    name = encoded.name
    with _opened(encoded) as image:
        _check_size(name, image, max_pixels)
        deep = image.format == "PNG" and _png_bits(encoded) > 8
        if deep or image.mode not in GREY_MODES | COLOUR_MODES:
            raise DataError(name, "has more than 8 bits a channel", "convert it to 8 bits")
        return image.mode, image.size


def may_be_cut(encoded: bytes) -> bool:
    """Whether an image's bytes may end too early: never of a JPEG, PNG or WebP that ends as it should.

    >>> may_be_cut(b"\\xff\\xd8 ... \\xff\\xd9"), may_be_cut(b"\\xff\\xd8 ...")
    (False, True)
    """
    if encoded.startswith(b"\xff\xd8"):
        return not encoded.rstrip(b"\0").endswith(b"\xff\xd9")
    if encoded.startswith(b"\x89PNG"):
        return encoded[-8:-4] != b"IEND"
    if encoded.startswith(b"RIFF"):
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return True


def decode_whole(encoded: Encoded) -> None:
    """Decode an image, and keep nothing of it. Raises `DataError` if that cannot be done."""
    with _opened(encoded) as image:
        image.load()


def _check_size(name: str, image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(
            name,
            f"is {image.width}x{image.height} pixels, more than data.max_image_pixels={max_pixels}",
            "replace or remove the file, or raise that limit (a core decodes one such image at a time)",
        )


def _png_bits(encoded: Encoded) -> int:
    with encoded.open() as file:
        return file.read(PNG_BITS + 1)[PNG_BITS]


def pixels(encoded: Encoded, grey: bool, settings: DataSettings, cut: Cut | None = None) -> np.ndarray:
    """An image as uint8 `(c, h, w)`; raises `DataError` if it cannot be decoded, or has too many pixels.

    Args:
        encoded: its bytes and name.
        grey: whether it is to have one channel.
        settings: `image_size` and how images come to it.
        cut: makes something else of the whole image than `settings.resize` says.
    """
    size, background = settings.image_size, settings.background
    with _opened(encoded) as image:
        # A packed image's header was looked at where it was packed, and a file may have changed since.
        _check_size(encoded.name, image, settings.max_image_pixels)
        if size:  # a JPEG of a camera need not be decoded at its full size: several times faster
            image.draft(None, (4 * size, 4 * size))
        image.load()
        _turn(image)
        shown = _over(image, background) if image.has_transparency_data else image
        converted = shown.convert("L" if grey else "RGB")
        if cut is not None:
            return cut(np.asarray(converted))
        if size and (converted.size != (size, size) or settings.centre_share < 1):
            converted = _framed(converted, size, settings)
        values = np.asarray(converted)
    return values[None] if grey else values.transpose(2, 0, 1)


def shortened(encoded: Encoded, short_side: int, background: int) -> bytes:
    """An image's bytes, as a JPEG of that many pixels on its shorter side if it has more there.

    Raises `DataError` if it cannot be decoded.
    """
    with _opened(encoded) as image:
        scale = short_side / min(image.size)
        if scale >= 1:
            with encoded.open() as file:
                return file.read()
        image.draft(None, (2 * short_side, 2 * short_side))
        image.load()
        _turn(image)
        shown = _over(image, background) if image.has_transparency_data else image
        grey = image.mode in GREY_MODES
        width, height = (round(side * short_side / min(shown.size)) for side in shown.size)
        small = shown.convert("L" if grey else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        written = BytesIO()
        small.save(written, "JPEG", quality=JPEG_QUALITY)
        return written.getvalue()


def _turn(image: Image.Image) -> None:
    """As a viewer shows it. An EXIF block that cannot be read turns nothing."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception as error:  # it holds whatever some program wrote
        warnings.warn(f"its EXIF block cannot be read ({error}), so it is shown as stored", stacklevel=2)
        return
    if orientation != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _over(image: Image.Image, background: int) -> Image.Image:
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, (background,) * 3 + (255,)), whole)


def _framed(image: Image.Image, size: int, settings: DataSettings) -> Image.Image:
    bilinear, square = Image.Resampling.BILINEAR, (size, size)
    if settings.resize == "squash":
        return image.resize(square, bilinear)
    if settings.resize == "pad":
        colour = settings.background if image.mode == "L" else (settings.background,) * 3
        return ImageOps.pad(image, square, bilinear, color=colour)
    return ImageOps.fit(image, square, bilinear, bleed=(1 - settings.centre_share) / 2)


_CURRENT = threading.local()


@contextmanager
def names_in_warnings() -> Iterator[list[str]]:
    """A list of what Pillow warns of, each with the first file's name and how many others it is of."""
    of: dict[str, dict[str, None]] = {}
    found: list[str] = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        of.setdefault(" ".join(str(message).split()), {})[getattr(_CURRENT, "name", "a file")] = None

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield found
    for message, (first, *others) in of.items():
        found.append(f"{first}{f' and {len(others)} more' if others else ''}: {message}")


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    """The image, not decoded yet. Pillow's readers raise anything on bytes that they do not expect."""
    _CURRENT.name = name = encoded.name
    try:
        with encoded.open() as file:
            if file.seek(0, os.SEEK_END) > MOST_ENCODED_BYTES:
                raise DataError(
                    name, f"is larger than {MOST_ENCODED_BYTES >> 20} MiB", "replace or remove the file"
                )
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(name, "cannot be read (permission denied)", "check the file's permissions") from error
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in any known format"  # Pillow's own words name an object in memory
    return DataError(name, f"cannot be decoded as an image ({reason})", "replace or remove the file")
