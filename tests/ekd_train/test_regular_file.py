"""A pipe in the place of a file is refused at once: `open` would wait for somebody to write, for ever."""

import os

import pytest

from ekd_train.data import load_dataset
from ekd_train.errors import EkdError
from ekd_train.own_code import source_hash
from ekd_train.regular_file import open_regular
from ekd_train.settings import DataSettings
from orchestrator.experiment.schema import load_experiment
from orchestrator.pretrained.state_dict import from_file
from orchestrator.tuning.space import load_space

pytestmark = [pytest.mark.attack, pytest.mark.timeout(120)]


def of_data(name, **settings):
    return lambda folder: load_dataset(DataSettings(name=name, root=str(folder), **settings))


READERS = {
    "mine.yaml": lambda folder: load_experiment(str(folder / "mine.yaml")),
    "space.yaml": lambda folder: load_space(str(folder / "space.yaml")),
    "w.pth": lambda folder: from_file(str(folder / "w.pth"), None, 1),
    "piped_module.py": lambda _: source_hash("piped_module"),
    "train-images-idx3-ubyte": of_data("fashion_mnist"),
    "cifar-10-batches-py/batches.meta": of_data("cifar10"),
    "tiny-imagenet-200/wnids.txt": of_data("tiny_imagenet"),
    "labels.csv": of_data("table", path="labels.csv", image_size=8),
    "parquet/README.md": of_data("hugging_face", path="parquet", image_size=8),
}


@pytest.mark.parametrize("name", READERS)
def test_whoever_reads_it_says_so(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name.startswith("train-images"):
        for other in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (tmp_path / f"{other}-ubyte").touch()
    os.mkfifo(tmp_path / name)
    with pytest.raises((EkdError, ValueError)) as caught:
        READERS[name](tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_device_are_no_files(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="it is no file, but a pipe or a device"):
        open_regular("/dev/null")
