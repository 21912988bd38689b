"""Every data set by name, from small files made in its own format."""

import gzip
import pickle
import struct
import subprocess
import sys
import typing

import numpy as np
import pytest

from ekd_train.data import LOADERS, DataError, fashion_mnist, load_dataset
from ekd_train.settings import DataName, DataSettings


def load(name, root=None, **choices):
    return load_dataset(DataSettings.model_validate({"name": name, "root": root and str(root), **choices}))


def test_every_name_of_the_settings_has_a_loader():
    assert set(LOADERS) == set(typing.get_args(DataName))


def test_loading_does_not_import_torch():
    code = "import sys, ekd_train.data; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_real_balanced_and_cover_the_whole_grey_range():
    data = load("digits", test_size=1000, validation_size=497, train_size=300)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [300, 497, 1000]
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert (data.test.images.min(), data.test.images.max()) == (0, 255)
    for split in (data.train, data.validation, data.test):
        counts = np.bincount(split.labels) / len(split)
        assert counts == pytest.approx(np.full(10, 0.1), abs=0.01)
    assert data.fingerprint == load("digits", test_size=1000, validation_size=497, train_size=300).fingerprint


def test_normalisation_does_not_depend_on_how_much_of_the_training_set_is_used():
    sizes = {"test_size": 1000, "validation_size": 497}
    whole, part = load("digits", **sizes), load("digits", **sizes, train_size=100, train_fraction=0.5)
    assert (whole.mean, whole.std) == (part.mean, part.std)
    assert len(part.train) == 50


# Fashion-MNIST


def write_fashion(folder, per_split=20, suffix="", **changed):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    for prefix in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (per_split, 28, 28), dtype=np.uint8)
        labels = (np.arange(per_split) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            values = changed.get(kind[:6], values)
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{prefix}-{kind}-ubyte{suffix}").write_bytes(pack(header + values.tobytes()))


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_found_where_debian_and_torchvision_put_it(tmp_path, layout, suffix):
    write_fashion(tmp_path / layout, suffix=suffix)
    data = load("fashion_mnist", tmp_path, validation_size=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 10, 20)
    assert data.image_shape == (1, 28, 28)
    assert data.train.images.flags.writeable


def test_without_a_root_debians_folder_comes_first_and_then_data(tmp_path, monkeypatch):
    debian = tmp_path / "debian"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", debian)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        load("fashion_mnist")
    write_fashion(tmp_path / "data/FashionMNIST/raw", per_split=20)
    assert len(load("fashion_mnist", validation_size=10).test) == 20
    write_fashion(debian, per_split=30, suffix=".gz")
    assert len(load("fashion_mnist", validation_size=10).test) == 30


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.exists(), reason="dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_its_published_sizes_and_statistics():
    data = load("fashion_mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.mean == pytest.approx([0.2860], abs=5e-4)
    assert data.std == pytest.approx([0.3530], abs=5e-4)


def test_one_missing_file_of_the_four_is_named(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        load("fashion_mnist", tmp_path)
    assert caught.value.where == str(tmp_path / "t10k-labels-idx1-ubyte.gz")


@pytest.mark.parametrize(
    ("changed", "file", "problem"),
    [
        ({"labels": np.full(20, 10, np.uint8)}, "train-labels-idx1-ubyte", "label 10 of image 0"),
        ({"labels": np.zeros(19, np.uint8)}, "train-labels-idx1-ubyte", "19 labels for 20 images"),
        ({"images": np.zeros((20, 27, 28), np.uint8)}, "train-images-idx3-ubyte", "27x28"),
        (
            {"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, np.uint8)},
            "train-labels",
            "no images",
        ),
    ],
)
def test_mislabelled_or_misshapen_fashion_mnist_is_refused(tmp_path, changed, file, problem):
    write_fashion(tmp_path, **changed)
    with pytest.raises(DataError, match=problem) as caught:
        load("fashion_mnist", tmp_path)
    assert file in caught.value.where


# CIFAR


def write_cifar(root, name, per_file=20, test=None):
    ten = name == "cifar10"
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    classes = 10 if ten else 100
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    for seed, file in enumerate(files):
        images = np.random.default_rng(seed).integers(0, 256, (per_file, 3072), dtype=np.uint8)
        labels = [i % classes for i in range(per_file)]
        batch = {"data": images, "labels" if ten else "fine_labels": labels} | (
            test or {} if "test" in file else {}
        )
        (folder / file).write_bytes(pickle.dumps(batch, 2))
    names = {"label_names" if ten else "fine_label_names": [f"class {i}" for i in range(classes)]}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(names, 2))
    return folder


@pytest.mark.parametrize("inside", [True, False])
def test_cifar10_keeps_file_order_and_validates_on_the_last_images(tmp_path, inside):
    folder = write_cifar(tmp_path, "cifar10")
    data = load("cifar10", folder if inside else tmp_path, validation_size=15)
    assert (len(data.train), len(data.validation), len(data.test)) == (85, 15, 20)
    first, last = (
        np.random.default_rng(seed).integers(0, 256, (20, 3072), dtype=np.uint8) for seed in (0, 4)
    )
    assert np.array_equal(data.train.images[:20].reshape(20, -1), first)
    assert np.array_equal(data.validation.images.reshape(15, -1), last[5:])
    assert data.image_shape == (3, 32, 32)
    assert data.mean == (0.4915, 0.4821, 0.4464)
    assert data.class_names[3] == "class 3"


def test_cifar100_uses_the_fine_labels(tmp_path):
    write_cifar(tmp_path, "cifar100", per_file=200)
    data = load("cifar100", tmp_path, validation_size=100)
    assert data.num_classes == 100
    assert data.test.labels.max() == 99
    assert data.std == (0.2673, 0.2564, 0.2760)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_3", "test_batch"])
def test_a_missing_cifar_file_is_named(tmp_path, file):
    folder = write_cifar(tmp_path, "cifar10")
    (folder / file).unlink()
    with pytest.raises(DataError, match="does not exist") as caught:
        load("cifar10", tmp_path)
    assert caught.value.where == str(folder / file)


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ({"labels": [10] * 20}, "label 10 of image 0 is outside the 10"),
        ({"labels": [0] * 19}, "19 labels for 20 images"),
        ({"labels": "0" * 20}, "no list of integer labels"),
        ({"labels": [0.5] * 20}, "damaged|opcode"),
        ({"data": np.zeros((20, 3071), np.uint8)}, "no images of 3x32x32"),
        ({"data": [1, 2]}, "no images of 3x32x32"),
        ({"data": np.zeros((20, 3072), np.float32)}, "another type than bytes"),
    ],
)
def test_wrong_cifar_content_is_refused(tmp_path, test, problem):
    folder = write_cifar(tmp_path, "cifar10", test=test)
    with pytest.raises(DataError, match=problem) as caught:
        load("cifar10", tmp_path, validation_size=10)
    assert caught.value.where == str(folder / "test_batch")


def test_training_images_of_one_class_only_are_refused(tmp_path):
    images, labels = np.zeros((20, 28, 28), np.uint8), np.full(20, 3, np.uint8)
    folder = tmp_path / "FashionMNIST" / "raw"
    write_fashion(folder, images=images, labels=labels)
    with pytest.raises(DataError, match="all 10 training images are of one class, 'Dress'"):
        load("fashion_mnist", tmp_path, validation_size=10)


def test_class_names_that_are_not_text_are_refused(tmp_path):
    folder = write_cifar(tmp_path, "cifar10")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [["a"]]}))
    with pytest.raises(DataError, match="class names"):
        load("cifar10", tmp_path)
