import hashlib
import tarfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torchvision.datasets

from ekd_train.data import fashion_mnist
from ekd_train.data.prepare import main


@pytest.fixture
def offline(monkeypatch):
    def fail(*_):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", fail)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fail)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.exists(), reason="dataset-fashion-mnist is not installed")
def test_debians_files_are_copied_and_verified_without_a_network(tmp_path, offline, capsys):
    for _ in range(2):
        assert main(["fashion_mnist", "--root", str(tmp_path)]) == 0
        assert "55000 training, 5000 validation and 10000 test images of 1x28x28" in capsys.readouterr().out
    assert (tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz").is_file()


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_data_that_can_be_had_from_nowhere_is_one_line_and_exit_2(
    tmp_path, offline, monkeypatch, capsys, name
):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not installed")
    assert main([name, "--root", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert "no route to host" in message
    assert "check the network" in message
    assert message.count("\n") == 1


def test_damaged_files_are_named_and_not_called_ready(tmp_path, offline, capsys):
    for name in fashion_mnist.FILES:
        (tmp_path / name).write_bytes(b"damaged")
    assert main(["fashion_mnist", "--root", str(tmp_path)]) == 2
    assert "not an IDX file" in capsys.readouterr().err


def test_what_is_fetched_of_cifar_is_unpacked_and_not_unpickled(tmp_path, monkeypatch):
    """By torchvision itself: whoever may write the folder could put another file in its place."""
    (folder := tmp_path / "made" / "cifar-10-batches-py").mkdir(parents=True)
    (folder / "batches.meta").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with tarfile.open(archive := tmp_path / "cifar-10-python.tar.gz", "w:gz") as file:
        file.add(folder, folder.name)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5)
    monkeypatch.chdir(tmp_path)
    assert main(["cifar10", "--root", str(tmp_path)]) == 2
    assert not Path("ran").exists()
    assert (tmp_path / "cifar-10-batches-py" / "batches.meta").is_file()
