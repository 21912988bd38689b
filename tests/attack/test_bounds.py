"""A file of a tebibyte, or a small one that claims much, where tensors or a lease should be, is not read."""

import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from ekd_train.persistence.bounded_tensors import MOST_HEADER_BYTES, parse_tensors
from ekd_train.persistence.bounded_zip import MOST_DIRECTORY_BYTES, check_zip
from ekd_train.persistence.checkpoint import Checkpoints, DamagedCheckpoint
from orchestrator.errors import EkdError
from orchestrator.export.source import from_run
from orchestrator.pipeline.lease import LEASE, Lease
from orchestrator.pipeline.manifest import read_run
from orchestrator.pipeline.networks import networks_of
from orchestrator.pipeline.order import training_runs
from orchestrator.pretrained.state_dict import MOST_WEIGHT_BYTES, from_file
from orchestrator.report import load_evidence
from orchestrator.storage import Storage, open_storage

pytestmark = pytest.mark.attack

GOLDEN = Path(__file__).parents[1] / "golden"


def grow(file: Path) -> None:
    """The file takes a tebibyte, and no place on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.truncate(file, 1 << 40)


@pytest.fixture
def run(tmp_path) -> Storage:
    """A finished run whose tensors have all grown."""
    for place in ("finished", "networks"):
        if (GOLDEN / place).is_dir():
            shutil.copytree(GOLDEN / place, tmp_path / place)
    grown = list(tmp_path.rglob("*.safetensors"))
    assert len(grown) > 2
    for file in grown:
        grow(file)
    return open_storage(str(tmp_path)).child("finished")


@pytest.mark.parametrize("read", [load_evidence, from_run])
def test_predictions_and_the_average_of_a_tebibyte_are_not_read(run, read):
    with pytest.raises(DamagedCheckpoint, match=f"{1 << 40} bytes, more than the .* may have") as caught:
        read(run)
    assert "\n" not in str(caught.value)


def test_networks_of_a_tebibyte_are_trained_again(run):
    manifest, experiment = read_run(run, "prepare")
    networks = networks_of(run, "finished", experiment, manifest.prepared.data)
    said: list[str] = []
    for each in training_runs(experiment):
        assert networks.find(each, said.append) is None
    assert said
    assert all(f"{1 << 40} bytes" in line and line.endswith("it is trained again") for line in said)


def test_a_checkpoint_of_a_tebibyte_is_passed_over(tmp_path):
    checkpoints = Checkpoints(open_storage(str(tmp_path)), "c", "identity")
    weights = {"w": torch.ones(3)}
    with checkpoints.storing():
        for epoch in (1, 2):
            checkpoints.save(epoch, weights, {}, (epoch, weights))
    grow(tmp_path / "c/epoch-00002.safetensors")
    found = checkpoints.newest(most_bytes=1000)
    assert found is not None
    assert found.epoch == 1
    grow(tmp_path / "c/best-00001.safetensors")
    assert checkpoints.newest(most_bytes=1000) is None


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_given_weights_of_a_tebibyte_are_refused(tmp_path, suffix):
    grow(tmp_path / f"weights.{suffix}")
    with pytest.raises(EkdError, match=f"{1 << 40} bytes, more than the {MOST_WEIGHT_BYTES}"):
        from_file(str(tmp_path / f"weights.{suffix}"), None, 1)


def test_a_pipe_for_given_weights_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(EkdError, match="is no file"):
        from_file(str(tmp_path / "weights.pth"), None, 1)


def test_a_lease_of_a_tebibyte_holds_nobody_up(tmp_path):
    grow(tmp_path / LEASE)
    with Lease(open_storage(str(tmp_path))).acquire():
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()


def test_a_header_of_tensors_is_bounded_before_it_is_parsed():
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.ljust(MOST_HEADER_BYTES + 1)
    with pytest.raises(ValueError, match=f"a header of {len(header)} bytes"):
        parse_tensors(struct.pack("<Q", len(header)) + header)
    assert list(parse_tensors(struct.pack("<Q", len(header) - 1) + header[:-1])) == ["a"]


def archive(entries: int, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as written:
        for index in range(entries):
            written.writestr(f"{index:0400d}", b"")
        written.comment = comment
    return file.getvalue()


class Counted(io.BytesIO):
    most = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.most = max(self.most, len(data))
        return data


CROWDED: dict[str, Callable[[], bytes]] = {
    "many entries": lambda: archive(11_000),
    "a list of 64 MiB": lambda: struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 1 << 26, 0, 0).rjust(
        (1 << 26) + 22, b"\0"
    ),
}


@pytest.mark.parametrize("made", CROWDED.values(), ids=CROWDED.keys())
def test_the_list_of_an_archive_is_bounded_before_it_is_read(made):
    file = Counted(made())
    with pytest.raises(ValueError, match="the list of its entries is longer"):
        check_zip(file)
    assert file.most <= MOST_DIRECTORY_BYTES + 1


def test_an_archive_with_a_comment_is_read():
    check_zip(io.BytesIO(archive(5, comment=b"c" * 60_000)))


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "complex": lambda: torch.eye(3, dtype=torch.complex64),
}


@pytest.mark.parametrize("made", ODD.values(), ids=ODD.keys())
def test_given_weights_that_are_no_plain_numbers_are_refused(tmp_path, made):
    torch.save({"good": torch.ones(2), "odd.weight": made()}, tmp_path / "weights.pth")
    with pytest.raises(EkdError, match=r"^odd\.weight is sparse, quantised, complex or empty"):
        from_file(str(tmp_path / "weights.pth"), None, 1)
