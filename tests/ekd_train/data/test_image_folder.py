import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ekd_train.data import DataError, image_decoding, load_dataset
from ekd_train.settings import DataSettings


def load(root, **choices):
    sizes = {"validation_size": 2, "test_size": 2} | choices
    return load_dataset(DataSettings.model_validate({"name": "image_folder", "root": str(root), **sizes}))


def pixels(seed, mode="RGB", size=(6, 5)):
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path, seed=0, mode="RGB", size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, mode, size)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of six 6x5 colour images in train/."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(6):
            write_image(tmp_path / "train" / name / f"{index}.png", seed=10 * label + index)
    return tmp_path


def test_pixels_arrive_unchanged_in_the_order_of_sorted_classes_and_files(root):
    write_image(root / "test/cat/a.png", 100)
    write_image(root / "test/dog/a.png", 101)
    data = load(root, test_size=None)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 5, 6)
    assert np.array_equal(data.test.images, np.stack([pixels(100), pixels(101)]).transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == [0, 1]
    assert (len(data.train), len(data.validation)) == (10, 2)
    assert np.bincount(data.validation.labels).tolist() == [1, 1]


@pytest.mark.parametrize("folder", ["validation", "val"])
def test_a_validation_folder_is_used_instead_of_holding_out(root, folder):
    for name in ("cat", "dog"):
        for index in range(2):
            write_image(root / folder / name / f"{index}.png", index)
    data = load(root)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 4, 2)


def test_grey_images_stay_grey_and_one_colour_image_makes_all_colour(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            write_image(tmp_path / "train" / name / f"{index}.png", index, mode="L")
    assert load(tmp_path).image_shape == (1, 5, 6)
    write_image(tmp_path / "train/b/4.png", 4)
    data = load(tmp_path)
    assert data.image_shape == (3, 5, 6)
    grey = [image for image in data.train.images if np.array_equal(image[0], image[1])]
    assert grey


def test_images_of_any_size_and_format_are_resized_square(root):
    write_image(root / "train/cat/photo.JPG", size=(40, 30))
    Image.fromarray(pixels(0)).convert("P").save(root / "train/dog/palette.png")
    Image.fromarray(pixels(0)).convert("RGBA").save(root / "train/dog/transparent.webp")
    assert load(root, image_size=8).image_shape == (3, 8, 8)


def test_hidden_files_are_passed_over(root):
    (root / "train/.DS_Store").write_text("x")
    (root / "train/cat/.thumbnail").write_text("x")
    assert load(root).num_classes == 2


def png_of_claimed_size(width, height):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_jpeg(path):
    Image.fromarray(pixels(0, size=(64, 64))).resize((6, 5)).save(path, format="JPEG")
    truncate(path)


def flip_bytes(path):
    content = bytearray(path.read_bytes())
    content[45:60] = bytes(15)
    path.write_bytes(content)


def to_16_bits(path):
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(path)


def to_loop(path):
    path.unlink()
    os.symlink(path, path)


def to_dangling_link(path):
    path.unlink()
    os.symlink(path.with_name("gone.png"), path)


def to_folder_loop(path):
    path.unlink()
    os.symlink(path.parent.parent, path)


DAMAGE = {
    "truncated png": (truncate, "cannot be decoded"),
    "truncated jpeg": (cut_jpeg, "cannot be decoded"),
    "corrupt png": (flip_bytes, "cannot be decoded"),
    "text": (lambda path: path.write_text("<html>"), "cannot be decoded"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "decompression bomb": (
        lambda path: path.write_bytes(png_of_claimed_size(60_000, 60_000)),
        "cannot be decoded",
    ),
    "size larger than its pixels": (
        lambda path: path.write_bytes(png_of_claimed_size(6, 5)),
        "cannot be decoded",
    ),
    "16 bits": (to_16_bits, "8 bits"),
    "another size": (lambda path: write_image(path, size=(7, 5)), "7x5 pixels"),
    "link to itself": (to_loop, "cannot be decoded"),
    "dangling link": (to_dangling_link, "cannot be decoded"),
    "link to a folder above": (to_folder_loop, "folder among images"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", DAMAGE)
def test_an_unusable_image_is_named(root, kind):
    damage, problem = DAMAGE[kind]
    path = root / "train/dog/3.png"
    damage(path)
    with pytest.raises(DataError, match=problem) as caught:
        load(root)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("train/dog/notes.txt", "is not an image"),
        ("train/stray.png", "is an image, though it lies among class folders"),
        ("train/empty/", "no images"),
        ("train/cat/more/", "folder among images"),
        ("test/", "no class folders"),
        ("test/fox/", "not one of the classes"),
    ],
)
def test_what_does_not_belong_is_named(root, entry, problem):
    path = root / entry
    if entry.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.write_text("x")
    with pytest.raises(DataError, match=problem) as caught:
        load(root)
    assert caught.value.where == str(path)


def test_a_class_without_test_images_is_named(root):
    write_image(root / "test/cat/a.png")
    with pytest.raises(DataError, match="does not exist") as caught:
        load(root)
    assert caught.value.where == str(root / "test/dog")


def test_a_missing_layout_and_an_unset_root_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist") as caught:
        load(tmp_path)
    assert caught.value.where == str(tmp_path / "train")
    with pytest.raises(DataError, match=r"^data\.root"):
        load_dataset(DataSettings(name="image_folder"))


def test_folders_of_splits_without_a_known_name_are_named(tmp_path):
    for split in ("train_images", "test"):
        write_image(tmp_path / split / "cat/a.png")
    with pytest.raises(DataError, match="has no folder train, but test, train_images") as caught:
        load(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_lists_and_licences_beside_classes_are_passed_over_and_images_are_not(tmp_path):
    for name in ("cat", "dog"):
        for index in range(4):
            write_image(tmp_path / name / f"{index}.png", index)
    for name in ("LICENSE.txt", "labels.csv"):
        (tmp_path / name).write_text("x")
    assert load(tmp_path, validation_size=2, test_size=2).class_names == ("cat", "dog")
    write_image(tmp_path / "stray.png")
    with pytest.raises(DataError, match="is an image, though it lies among class folders"):
        load(tmp_path)


def test_an_unreadable_image_or_folder_is_named(unprivileged):
    for name in ("cat", "dog"):
        for index in range(3):
            write_image(unprivileged / "train" / name / f"{index}.png", index)
    image, folder = unprivileged / "train/dog/1.png", unprivileged / "train/cat"
    image.chmod(0)
    with pytest.raises(DataError, match="permission") as caught:
        load(unprivileged)
    assert caught.value.where == str(image)
    folder.chmod(0)
    with pytest.raises(DataError, match="Permission denied") as caught:
        load(unprivileged)
    assert caught.value.where == str(folder)
    folder.chmod(0o700)


def test_images_that_memory_cannot_hold_are_refused_before_decoding(root, monkeypatch):
    monkeypatch.setattr(image_decoding.os, "sysconf", lambda name: 10)
    with pytest.raises(DataError, match="GiB") as caught:
        load(root)
    assert caught.value.where == str(root)


def test_a_pipe_among_the_images_is_refused_and_not_waited_for(root):
    os.mkfifo(root / "train/cat/p.png")
    with pytest.raises(DataError, match="is not a regular file") as caught:
        load(root)
    assert caught.value.where == str(root / "train/cat/p.png")
