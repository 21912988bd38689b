"""An image folder holds whatever bytes somebody put there: each is decoded, or one line that names it."""

import io
import os
import stat
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ekd_train.data import DataError, load_dataset
from ekd_train.settings import DataSettings

pytestmark = [
    pytest.mark.attack,
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def load(root, **choices):
    return load_dataset(
        DataSettings(name="image_folder", root=str(root), validation_size=2, test_size=2, **choices)
    )


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=kind)
    return content.getvalue()


def large_png(side: int) -> bytes:
    """A whole, honest, small file of `side` x `side` black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    compressor = zlib.compressobj(9)
    rows = b"".join([*(compressor.compress(bytes(side + 1)) for _ in range(side)), compressor.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def root(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        for i in range(6):
            (folder / f"{i}.png").write_bytes(encoded("PNG"))
    return tmp_path / "images"


def refused(root, content: bytes, name: str = "cat.jpg", **choices) -> DataError:
    path = root / "train" / "cat" / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(root, **choices)
    path.unlink()
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_no_program_is_started_for_a_file_that_is_no_image(root, tmp_path, monkeypatch):
    """PostScript that calls itself a JPEG is Ghostscript's, for Pillow."""
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(ghostscript.stat().st_mode | stat.S_IXUSR)
    code = """
import sys
from ekd_train.data import DataError, load_dataset
from ekd_train.settings import DataSettings
try:
    load_dataset(DataSettings(name="image_folder", root=sys.argv[1], validation_size=2, test_size=2))
except DataError as error:
    print(error)
"""
    file = root / "train" / "cat" / "cat.jpg"
    file.write_bytes(EPS)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code, root],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be decoded as an image" in done.stdout
    assert not started.exists()
    refused(root, EPS)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PCX", "TGA"])
def test_other_formats_are_refused_whatever_they_are_called(root, kind):
    assert "cannot be decoded as an image" in str(refused(root, encoded(kind)))


def test_a_small_file_of_many_pixels_is_refused_by_its_header(root):
    message = str(refused(root, large_png(5001), "bomb.png"))
    assert "5001x5001 pixels, more than data.max_image_pixels=25000000" in message
    assert "64x64 pixels, more than" in str(refused(root, large_png(64), "own.png", max_image_pixels=4095))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "WEBP"])
def test_an_image_file_of_a_tebibyte_is_not_read(root, kind):
    file = root / "train" / "cat" / "cat.jpg"
    file.write_bytes(encoded(kind))
    os.truncate(file, 1 << 40)
    with pytest.raises(DataError, match="is larger than 256 MiB"):
        load(root)


def test_the_limit_changes_no_result_and_no_run_id():
    from orchestrator.experiment.schema import load_experiment

    ids = {
        load_experiment("digits", [f"data.max_image_pixels={n}"]).default_run_id() for n in (100_000, 200_000)
    }
    assert len(ids) == 1


@fuzzed
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "BMP", "PPM", "WEBP"]))
def test_a_damaged_header_is_decoded_or_named(root, data, kind):
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content) - 1, 120)))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = root / "train" / "cat" / "odd.png"
    path.write_bytes(content)
    if (error := failure(root)) is not None:
        assert error.where == str(path)
        assert "\n" not in str(error)


def failure(root) -> DataError | None:
    try:
        load(root, image_size=8, max_image_pixels=10_000)
    except DataError as error:
        return error
    return None
