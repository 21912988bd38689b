import pickle

import numpy as np
import pytest

from ekd_train.data.dataset import Dataset, Split, channel_statistics, checked_split, describe
from ekd_train.data.description import DataDescription
from ekd_train.data.errors import DataError


def dataset(**changes):
    def split(start):
        images = np.arange(start, start + 2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
        return Split(images, np.array([0, 1]))

    parts = {"train": split(0), "validation": split(1), "test": split(2), "class_names": ("cat", "dog")}
    return Dataset(name="pets", mean=(0.5,) * 3, std=(0.25,) * 3, **(parts | changes))


def test_the_fingerprint_is_pinned_so_that_every_machine_agrees():
    assert dataset().fingerprint == "5f7e40aba881be5cf88d68dbba8d6391deae52e3aa71dfc597a29ade0912be10"
    assert dataset().short_fingerprint == dataset().fingerprint[:12]


def test_the_fingerprint_sees_content_not_memory_layout():
    images = dataset().train.images
    fortran = Split(np.asfortranarray(images), np.array([0, 1], dtype=np.int32))
    assert dataset(train=fortran).fingerprint == dataset().fingerprint


def test_any_changed_pixel_label_split_or_name_changes_the_fingerprint():
    base = dataset()
    pixel = base.train.images.copy()
    pixel[1, 2, 1, 1] += 1
    changed = [
        dataset(train=Split(pixel, base.train.labels)),
        dataset(test=Split(base.test.images, np.array([1, 0]))),
        dataset(train=base.validation, validation=base.train),
        dataset(train=Split(base.train.images.reshape(2, 3, 4, 1), base.train.labels)),
        dataset(class_names=("cat", "fox")),
    ]
    assert len({data.fingerprint for data in [base, *changed]}) == 6


def test_the_description_says_what_is_known_without_the_images():
    facts = describe(dataset())
    assert facts.train == 2
    assert facts.image_shape == (3, 2, 2)
    assert facts.num_classes == 2
    assert facts.fingerprint == dataset().fingerprint
    assert DataDescription.model_validate_json(facts.model_dump_json()) == facts


def test_what_a_search_sees_has_no_test_images_and_the_same_fingerprint():
    seen = dataset().without_test_images()
    assert len(seen.test) == 0
    assert seen.image_shape == (3, 2, 2)
    assert seen.fingerprint == dataset().fingerprint != dataset(test=seen.test).fingerprint
    assert np.array_equal(seen.train.images, dataset().train.images)


def test_channel_statistics_are_those_of_the_pixels_between_0_and_1():
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 5), dtype=np.uint8)
    images[:, 1] //= 2
    mean, std = channel_statistics(images)
    pixels = images.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert mean == pytest.approx(pixels.mean(1), rel=1e-12)
    assert std == pytest.approx(pixels.std(1), rel=1e-12)


def test_a_constant_channel_can_still_be_divided_by_its_deviation():
    assert channel_statistics(np.full((2, 1, 2, 2), 51, dtype=np.uint8)) == ((0.2,), (1.0,))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 1], "2 labels for 3 images"),
        ([0, 1, 2], "label 2 of image 2 is outside the 2"),
        ([0, -1, 1], "-1 of"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, problem):
    with pytest.raises(DataError, match=problem) as caught:
        checked_split(np.zeros((3, 1, 2, 2), np.uint8), np.array(labels), 2, "labels.idx")
    assert caught.value.where == "labels.idx"


def test_a_split_without_images_is_refused():
    with pytest.raises(DataError, match="no images"):
        checked_split(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0), 2, "x")


def test_a_data_error_survives_the_way_between_processes():
    error = DataError("a", "is wrong", "fix it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a: is wrong; fix it"  # noqa: S301
