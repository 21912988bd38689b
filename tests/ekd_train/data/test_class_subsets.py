"""Held-out classes: in no split, the others numbered anew, and their images found again."""

import numpy as np
import pytest

from ekd_train.data import DataError, load_dataset
from ekd_train.data.class_subsets import only_classes, without_classes
from ekd_train.data.dataset import Source, Split
from ekd_train.data.digits import load_digits
from ekd_train.robustness.ood_data import load_held_out
from ekd_train.settings import DataSettings

DIGITS = {"name": "digits", "test_size": 200, "validation_size": 100}


def settings(*held_out):
    return DataSettings.model_validate(DIGITS | {"held_out_classes": list(held_out)})


def classes_by_image(split):
    return {image.tobytes(): int(label) for image, label in zip(split.images, split.labels, strict=True)}


def test_no_split_has_an_image_of_a_held_out_class():
    of = classes_by_image(load_digits(settings()).train)
    data = load_dataset(settings("3", "8"))
    assert data.class_names == ("0", "1", "2", "4", "5", "6", "7", "9")
    for split in (data.train, data.validation, data.test):
        assert len(split)
        for image, label in zip(split.images, split.labels, strict=True):
            assert data.class_names[label] == str(of[image.tobytes()])


def test_every_split_that_there_is_is_cut_and_keeps_its_order():
    labels = np.arange(12) % 3
    split = Split(np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1), labels)
    source = Source(split, split, ("a", "b", "c"), official_order=True, validation=split)
    cut = without_classes(source, ["b"])
    for part in (cut.train, cut.validation, cut.test):
        assert part.images.ravel().tolist() == [0, 2, 3, 5, 6, 8, 9, 11]
        assert part.labels.tolist() == [0, 1] * 4
    assert only_classes(source, ["b"]).images.ravel().tolist() == [1, 4, 7, 10]


def test_the_images_of_the_held_out_classes_are_found_again_balanced():
    outside = load_held_out(settings("3", "8"), most=100)
    of = classes_by_image(load_digits(settings()).train)
    classes = [of[image.numpy().tobytes()] for image in outside.images]
    assert classes.count(3) + classes.count(8) == 100
    assert classes.count(3) == pytest.approx(50, abs=2)  # there are 183 and 174


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["eight"], "data.held_out_classes: there is no class 'eight'"),
        ([str(i) for i in range(9)], "leaves 1 of the classes"),
    ],
)
def test_wrong_names_and_too_many_are_refused(names, line):
    with pytest.raises(DataError, match=line):
        load_dataset(settings(*names))
