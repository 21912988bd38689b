"""What is odd about somebody's images is said before anything is trained, with the files to look at."""

import shutil
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from ekd_train.data import DataError, load_dataset
from ekd_train.settings import DataSettings


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of twelve training images and four test images."""
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                write(
                    tmp_path / split / name / f"{index:02}.png",
                    zlib.crc32(repr((split, label, index)).encode()),
                )
    return tmp_path


def load(root):
    return load_dataset(DataSettings(name="image_folder", root=str(root), validation_size=2))


def test_nothing_is_said_of_an_ordinary_folder(root):
    assert load(root).findings == ()


def test_test_images_that_are_training_images_are_counted_and_two_files_named(root):
    for index in range(3):
        shutil.copy(root / f"train/cat/{index:02}.png", root / f"test/cat/{index:02}.png")
    (finding,) = load(root).findings
    assert finding.startswith("3 of 8 test images are in another split too (")
    assert str(root / "test/cat/00.png") in finding
    assert str(root / "train/cat/00.png") in finding


def test_an_image_in_two_classes_is_said(root):
    shutil.copy(root / "train/cat/00.png", root / "train/dog/zz.png")
    findings = load(root).findings
    assert any(
        finding.startswith("1 images are in two classes")
        and f"{root / 'train/cat/00.png'} (cat)" in finding
        and f"{root / 'train/dog/zz.png'} (dog)" in finding
        for finding in findings
    )


def test_imbalance_is_said_with_both_counts(root):
    for index in range(130):
        write(root / f"train/cat/more-{index}.png", 1000 + index)
    (finding,) = load(root).findings
    assert "imbalanced: 141 training images of 'cat', 11 of 'dog'" in finding  # one of each validates


def test_a_class_of_very_few_images_is_named(root):
    for index in range(9):
        (root / f"train/dog/{index:02}.png").unlink()
    (finding,) = load(root).findings
    assert finding == "class 'dog' has 2 training images, which is very few"


def test_images_of_one_colour_are_counted(root):
    for name in ("cat", "dog"):
        Image.new("RGB", (4, 4), (9, 200, 3)).save(root / f"test/{name}/00.png")
        Image.new("RGB", (4, 4), (9, 9, 10)).save(root / f"test/{name}/01.png")
    findings = load(root).findings
    assert any(f.startswith("2 test images are of one colour, such as") for f in findings), findings


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("10", "2", "9"), "sorted as text, not as numbers: 10, 2, 9"),
        (("2", "3", "10x"), None),
        (("Cat", "cat"), "differ only in case, blanks or Unicode form"),
        (("a b", "a  b"), "differ only in case, blanks or Unicode form"),
    ],
)
def test_names_that_mislead_are_said(tmp_path, names, said):
    for label, name in enumerate(names):
        for index in range(14):
            write(tmp_path / "train" / name / f"{index}.png", 100 * label + index)
    settings = DataSettings(name="image_folder", root=str(tmp_path), validation_size=3, test_size=3)
    findings = load_dataset(settings).findings
    assert [said in finding for finding in findings] == ([True] if said else [])


def test_a_class_has_one_name_in_both_unicode_forms(root):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (root / "train/cat").rename(root / "train" / composed)
    (root / "test/cat").rename(root / "test" / decomposed)
    data = load(root)
    assert data.class_names == (composed, "dog")
    assert np.bincount(data.test.labels).tolist() == [4, 4]
    shutil.copytree(root / "train" / composed, root / "train" / decomposed)
    with pytest.raises(DataError, match="another Unicode form"):
        load(root)


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Valid", "dev"])
def test_a_validation_folder_of_any_usual_name_is_used(root, name):
    for label in ("cat", "dog"):
        write(root / name / label / "v.png", zlib.crc32(repr((name, label)).encode()))
    data = load(root)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 2, 8)


@pytest.mark.parametrize("name", ["Test", "testing", "TESTING"])
def test_a_test_folder_of_any_usual_name_is_found(root, name):
    (root / "test").rename(root / name)
    assert len(load(root).test) == 8


def test_a_folder_that_looks_like_a_split_and_is_none_is_named_and_never_ignored(root):
    write(root / "holdout/cat/0.png", 5)
    with pytest.raises(DataError, match="no known split") as caught:
        load(root)
    assert caught.value.where == str(root / "holdout")
    shutil.rmtree(root / "holdout")
    write(root / "masks/0.png", 5)
    assert load(root).findings == (f"{root / 'masks'} is no split and is not used",)


def test_two_folders_for_one_split_are_refused(root):
    shutil.copytree(root / "test", root / "testing")
    with pytest.raises(DataError, match="second test split"):
        load(root)


def test_class_folders_alone_are_all_training_images(root):
    shutil.rmtree(root / "test")
    settings = DataSettings(name="image_folder", root=str(root / "train"), validation_size=2, test_size=4)
    data = load_dataset(settings)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 4)


def test_what_windows_and_macos_leave_in_folders_is_passed_over(root):
    (root / "train/cat/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "train/dog/desktop.ini").write_text("[.ShellClassInfo]\n")
    (root / "__MACOSX").mkdir()
    assert load(root).findings == ()
