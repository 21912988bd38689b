import numpy as np
import pytest
from PIL import Image

from ekd_train.data import DataError, load_dataset
from ekd_train.settings import DataSettings


def load(root):
    return load_dataset(DataSettings(name="tiny_imagenet", root=str(root), validation_size=2))


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def tiny(tmp_path):
    """The published archive's layout with two classes of four training and two `val` images."""
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(("n01443537", "n02123045")):
        for index in range(4):
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 10 * label + index)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
        for index in range(2):
            file = f"val_{2 * index + label}.JPEG"
            write_image(folder / "val/images" / file, 50 + 2 * index + label)
            lines.append(f"{file}\t{wnid}\t0\t0\t5\t5")
    (folder / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn02123045\ttabby\nn09\tother\n"
    )
    return folder


def test_tiny_imagenets_val_is_the_test_split_and_validation_comes_from_train(tiny):
    data = load(tiny.parent)
    assert data.class_names == ("goldfish, Carassius auratus", "tabby")
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert (len(data.train), len(data.validation)) == (6, 2)
    assert data.mean == (0.4802, 0.4481, 0.3976)
    assert load(tiny).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("val_0.JPEG\tn01443537", "val_0.JPEG\tn99", "not a class in train"),
        ("val_0.JPEG", "val_9.JPEG", "no line for val_0"),
        ("\t", " ", "line 1 has no tab"),
    ],
)
def test_wrong_annotations_are_named(tiny, old, new, problem):
    path = tiny / "val/val_annotations.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=problem) as caught:
        load(tiny)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("file", ["val/val_annotations.txt", "words.txt", "val/images/val_2.JPEG"])
def test_a_missing_file_of_tiny_imagenet_is_named(tiny, file):
    (tiny / file).unlink()
    with pytest.raises(DataError, match="does not exist") as caught:
        load(tiny)
    assert caught.value.where == str(tiny / file)
