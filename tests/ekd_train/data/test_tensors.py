import pickle

import numpy as np
import pytest
import torch

from ekd_train.data.dataset import Dataset, Split
from ekd_train.data.shared import SharedData
from ekd_train.data.tensors import TrainingData, place

SPLITS = ("train", "validation", "test")


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8)
    whole = Split(images, generator.integers(0, 3, 1000))
    # As `divide` makes them: views of one array, and a copy.
    train, validation = whole.take(slice(-300)), whole.take(slice(-300, None))
    return Dataset("noise", train, validation, whole.take(np.arange(50)), ("a", "b", "c"), (0.5,), (0.25,))


def through_the_object_store(value: SharedData) -> tuple[SharedData, int]:
    """`value` as another process gets it from Ray, and the bytes that are not shared but unpickled.

    Ray pickles with protocol 5 and keeps the arrays, which stay outside the stream, in read-only memory.
    """
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    shared = [memoryview(bytes(buffer.raw())) for buffer in buffers]
    return pickle.loads(stream, buffers=shared), len(stream)  # noqa: S301


def test_sharing_leaves_every_array_outside_the_pickled_stream():
    made = dataset()
    shared, bytes_in_stream = through_the_object_store(SharedData(made, {"a": np.ones(9000)}))
    assert bytes_in_stream < 3000
    assert shared.dataset.fingerprint == made.fingerprint
    for name in SPLITS:
        assert not getattr(shared.dataset, name).images.flags.owndata
    assert np.array_equal(shared.weights["a"], np.ones(9000))


def test_a_fingerprint_that_was_computed_is_not_computed_again(monkeypatch):
    made = dataset()
    known = made.fingerprint
    shared, _ = through_the_object_store(SharedData(made))
    monkeypatch.setattr("ekd_train.data.dataset.hashlib.sha256", None)
    assert shared.dataset.fingerprint == known


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "share", [lambda made: made, lambda made: through_the_object_store(SharedData(made))[0].dataset]
)
def test_on_a_cpu_the_tensors_are_the_arrays_memory(share):
    arrays = share(dataset())
    placed = place(arrays, torch.device("cpu"))
    tensors = {"train": placed.training.train, "validation": placed.training.validation, "test": placed.test}
    for name in SPLITS:
        split = getattr(arrays, name)
        assert tensors[name].images.data_ptr() == split.images.ctypes.data
        assert tensors[name].labels.data_ptr() == split.labels.ctypes.data
        assert np.array_equal(tensors[name].images.numpy(), split.images)
        assert np.array_equal(tensors[name].labels.numpy(), split.labels)


def test_training_data_has_everything_but_the_test_images():
    assert set(TrainingData.__dataclass_fields__) == {"train", "validation", "spec"}
    spec = place(dataset(), torch.device("cpu")).training.spec
    assert (spec.num_classes, spec.image_shape) == (3, (1, 8, 8))
    assert (spec.mean, spec.std) == ((0.5,), (0.25,))
