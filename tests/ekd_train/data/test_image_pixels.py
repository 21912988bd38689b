"""Photographs and cut-outs become the pixels that a person sees, whatever their files are like."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ekd_train.data import DataError, load_dataset
from ekd_train.settings import DataSettings

TURNED = 6
"""EXIF: stored a quarter turn to the left; a viewer turns it to the right."""


def load(root, **choices):
    return load_dataset(
        DataSettings(name="image_folder", root=str(root), validation_size=2, test_size=2, **choices)
    )


def folder(root, save):
    """Two classes of four images; `save(path without suffix)` writes each."""
    for name in ("a", "b"):
        for index in range(4):
            path = root / "train" / name / str(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path)
    return root


def bright_top(height=12, width=8):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = 200
    return pixels


def save_turned(path, orientation=TURNED):
    image = Image.fromarray(bright_top()).rotate(90, expand=True)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(f"{path}.jpg", quality=100, subsampling=0, exif=exif)


def test_a_photograph_is_turned_as_a_viewer_turns_it(tmp_path):
    data = load(folder(tmp_path, save_turned))
    assert data.image_shape == (3, 12, 8)
    assert np.abs(data.train.images.astype(int) - bright_top().transpose(2, 0, 1)).max() <= 8  # JPEG


def test_an_exif_block_that_cannot_be_read_is_said_and_turns_nothing(tmp_path):
    def save(path):
        Image.fromarray(bright_top()).save(f"{path}.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")

    data = load(folder(tmp_path, save))
    assert data.image_shape == (3, 12, 8)
    assert any(str(tmp_path / "train/a/0.jpg") in finding for finding in data.findings)


@pytest.mark.parametrize("background", [255, 0, 90])
def test_hidden_pixels_show_the_background_and_not_what_the_file_holds_there(tmp_path, background):
    alpha = np.zeros((6, 6, 1), np.uint8)
    alpha[:, :2], alpha[:, 2:4] = 255, 51  # opaque, a fifth, hidden
    rgba = np.concatenate([np.full((6, 6, 3), 200, np.uint8), alpha], axis=2)
    rgba[:, 4:, 0] = 7
    data = load(folder(tmp_path, lambda p: Image.fromarray(rgba).save(f"{p}.png")), background=background)
    row = data.train.images[0, 0, 0].astype(int)
    assert row[0] == 200
    assert abs(row[2] - (200 / 5 + background * 4 / 5)) <= 1
    assert row[5] == background


def test_a_palette_with_a_transparent_colour_is_transparent_too(tmp_path):
    def save(path):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([9, 9, 9, 200, 100, 50])
        image.putpixel((0, 0), 0)
        image.save(f"{path}.png", transparency=0)

    pixels = load(folder(tmp_path, save)).train.images[0]
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 3, 3].tolist() == [200, 100, 50]


def save_16_bits(path):
    """Values below 256 of 65,535: almost black, and zero in the higher byte."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + np.full((4, 3), 250, ">u2").tobytes() for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.with_suffix(".png").write_bytes(content)


def test_16_bits_a_channel_are_refused_by_name_with_a_count(tmp_path):
    with pytest.raises(DataError, match="8 bits") as caught:
        load(folder(tmp_path, save_16_bits))
    assert caught.value.where == str(tmp_path / "train/a/0.png")
    assert str(tmp_path / "train/a/1.png and 6 more") in str(caught.value)


def circle(height=60, width=120):
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2 + 0.5) ** 2 + (y - height / 2 + 0.5) ** 2 < (height / 3) ** 2
    return Image.fromarray(np.repeat(inside[..., None] * 255, 3, axis=2).astype(np.uint8))


def extent(image):
    """Rows and columns that the bright part of `(c, h, w)` covers."""
    bright = image[0] > 127
    return bright.any(1).sum(), bright.any(0).sum()


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize(
    ("resize", "rows", "columns"), [("shorter_side", 20, 20), ("squash", 20, 10), ("pad", 10, 10)]
)
def test_a_circle_stays_a_circle_unless_squashing_was_asked_for(tmp_path, kind, resize, rows, columns):
    root = folder(tmp_path, lambda path: circle().save(f"{path}.{kind}"))
    image = load(root, image_size=30, resize=resize, background=0).train.images[0]
    assert image.shape == (3, 30, 30)
    assert extent(image) == (pytest.approx(rows, abs=1), pytest.approx(columns, abs=1))


def test_the_shorter_side_decides_by_default_and_padding_shows_the_background(tmp_path):
    root = folder(tmp_path, lambda path: circle().save(f"{path}.png"))
    assert np.array_equal(
        load(root, image_size=30).train.images, load(root, image_size=30, resize="shorter_side").train.images
    )
    padded = load(root, image_size=30, resize="pad", background=77).train.images[0]
    assert (padded[:, 0] == 77).all()
    assert (padded[:, 15, 0] == 0).all()


def test_a_large_jpeg_decoded_small_looks_like_one_decoded_whole(tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    photograph = coarse.resize((960, 640), Image.Resampling.BICUBIC)
    root = folder(tmp_path, lambda path: photograph.save(f"{path}.jpg", quality=95))
    middle = photograph.crop((160, 0, 800, 640)).resize((32, 32), Image.Resampling.BILINEAR)
    image = load(root, image_size=32).train.images[0].transpose(1, 2, 0)
    assert np.abs(image.astype(int) - np.asarray(middle).astype(int)).mean() < 1.5
