import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekd_train.data.dataset import Source, Split
from ekd_train.data.errors import DataError
from ekd_train.data.subsets import balanced_order, divide


def split_of(labels):
    """Images whose pixel says which one they are."""
    index = np.arange(len(labels))
    images = np.stack([index >> 8, index & 255], axis=1).astype(np.uint8).reshape(-1, 2, 1, 1)
    return Split(images, np.asarray(labels, dtype=np.int64))


def identities(split):
    return (split.images[:, 0, 0, 0].astype(int) * 256 + split.images[:, 1, 0, 0]).tolist()


def source_of(train, test=None, validation=None, classes=3, official_order=False):
    names = tuple(str(label) for label in range(classes))
    optional = [None if labels is None else split_of(labels) for labels in (test, validation)]
    return Source(split_of(train), optional[0], names, official_order=official_order, validation=optional[1])


def divided(source, validation_size=6, test_size=None, train_size=None, train_fraction=1.0):
    return divide(
        source,
        validation_size=validation_size,
        test_size=test_size,
        train_size=train_size,
        train_fraction=train_fraction,
    )


labelled = st.lists(st.integers(0, 4), min_size=10, max_size=120).map(lambda tail: [0, 1, 2, 3, 4, *tail])


@given(labelled)
def test_a_balanced_order_holds_every_image_once_and_shows_every_class_first(labels):
    order = balanced_order(np.array(labels), 5, "train")
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert {labels[index] for index in order[:5]} == {0, 1, 2, 3, 4}


@given(st.integers(1, 40), st.integers(2, 6), st.data())
def test_classes_of_equal_size_differ_by_at_most_one_image_in_every_subset(per_class, classes, data):
    labels = np.array(data.draw(st.permutations(list(range(classes)) * per_class)))
    size = data.draw(st.integers(1, len(labels)))
    counts = np.bincount(labels[balanced_order(labels, classes, "train")[:size]], minlength=classes)
    assert counts.max() - counts.min() <= 1


@given(labelled, st.data())
def test_no_class_is_over_represented_by_a_whole_image(labels, data):
    labels = np.array(labels)
    size = data.draw(st.integers(1, len(labels)))
    counts = np.bincount(labels[balanced_order(labels, 5, "train")[:size]], minlength=5)
    assert (counts < size * np.bincount(labels, minlength=5) / len(labels) + 1).all()


@given(st.permutations([0, 1, 2] * 30), st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_smaller_fraction_is_part_of_a_larger_one(labels, first, second):
    source = source_of(labels, test=[0, 1, 2])
    small, large = (
        identities(divided(source, train_fraction=fraction)[0]) for fraction in sorted((first, second))
    )
    assert set(small) <= set(large)
    assert small == sorted(small)  # in the files' own order


@given(st.permutations([0, 1, 2] * 30), st.integers(3, 60), st.floats(0.5, 1))
def test_the_three_splits_share_no_image(labels, train_size, fraction):
    source = source_of(labels)
    train, validation, test, whole = divided(
        source, test_size=12, train_size=train_size, train_fraction=max(fraction, 3 / train_size)
    )
    parts = [set(identities(split)) for split in (whole, validation, test)]
    assert [len(part) for part in parts] == [72, 6, 12]
    assert set.union(*parts) == set(range(90))
    assert set(identities(train)) <= parts[0]
    assert np.bincount(validation.labels).tolist() == [2, 2, 2]
    assert np.bincount(test.labels).tolist() == [4, 4, 4]


def test_a_fraction_is_taken_of_the_capped_size():
    source = source_of([0, 1, 2] * 30, test=[0, 1, 2])
    assert len(divided(source, train_size=60, train_fraction=0.5)[0]) == 30


def test_with_an_official_order_the_last_images_validate():
    train, validation, test, _ = divided(source_of([0, 1, 2] * 10, [2, 1, 0], official_order=True))
    assert identities(train) == list(range(24))
    assert identities(validation) == list(range(24, 30))
    assert test.labels.tolist() == [2, 1, 0]


def test_without_one_a_train_split_sorted_by_class_still_validates_every_class():
    _, validation, _, _ = divided(source_of([0] * 10 + [1] * 10 + [2] * 10, [0, 1, 2]))
    assert np.bincount(validation.labels).tolist() == [2, 2, 2]


def test_a_validation_split_of_the_files_own_is_used_whole():
    train, validation, _, _ = divided(source_of([0, 1, 2] * 3, [0, 1, 2], [2, 2, 1, 0]), validation_size=5000)
    assert len(train) == 9
    assert validation.labels.tolist() == [2, 2, 1, 0]


def test_a_test_split_can_be_cut_to_a_balanced_part():
    assert sorted(divided(source_of([0, 1, 2] * 4, [0] * 5 + [1] * 5 + [2] * 5), test_size=6)[2].labels) == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        ({"validation_size": 30}, "data.validation_size"),
        ({"validation_size": 28}, "data.validation_size"),
        ({"validation_size": 2}, "data.validation_size"),
        ({"test_size": 7}, "data.test_size"),
        ({"test_size": 2}, "data.test_size"),
        ({"train_size": 25}, "data.train_size"),
        ({"train_size": 2}, "data.train_size"),
        ({"train_fraction": 0.05}, "data.train_fraction"),
        ({"train_size": 12, "train_fraction": 0.1}, "data.train_fraction"),
    ],
)
@pytest.mark.parametrize("official_order", [True, False])
def test_asking_for_more_than_there_is_or_too_little_names_the_key(choices, key, official_order):
    with pytest.raises(DataError) as caught:
        divided(source_of([0, 1, 2] * 10, [0, 1, 2] * 2, official_order=official_order), **choices)
    assert caught.value.where == key


def test_data_without_a_test_split_needs_a_test_size():
    with pytest.raises(DataError, match=r"data\.test_size"):
        divided(source_of([0, 1, 2] * 10))


def test_an_order_is_pinned_so_that_every_platform_and_version_agrees():
    assert balanced_order(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 2, "train").tolist() == [2, 7, 1, 4, 0, 6, 3, 5]
