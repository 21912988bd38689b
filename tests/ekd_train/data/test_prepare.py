from urllib.error import URLError

import pytest
import torchvision.datasets

from ekd_train.data import fashion_mnist
from ekd_train.data.prepare import main


@pytest.fixture
def offline(monkeypatch):
    def fail(self):
        raise URLError("no route to host")

    for name in ("FashionMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fail)


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
