"""A file of a tebibyte, or a small one that claims much, where tensors or a lease should be, is not read."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from ekd_train.data.table_file import read_table
from ekd_train.persistence.bounded_tensors import MOST_HEADER_BYTES, parse_tensors
from ekd_train.persistence.bounded_zip import MOST_DIRECTORY_BYTES, check_zip
from ekd_train.persistence.checkpoint import Checkpoints, DamagedCheckpoint
from orchestrator.errors import EkdError, ExperimentError
from orchestrator.experiment.schema import load_experiment
from orchestrator.export.source import from_run
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.lease_holder import LEASE
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


def peak_of(code: str, *arguments: object) -> int:
    """MiB that a process of its own took at most; it must end well."""
    # Not what getrusage says: that begins with what the process had that started it.
    told = "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    words = [sys.executable, "-c", f"import sys\n{code}\n{told}", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) >> 10


REFUSED = """
from ekd_train.errors import EkdError
import {module}
try:
    {module}.{call}
    raise SystemExit('it was read')
except EkdError as error:
    assert {said!r} in str(error), error
"""


def refused(module: str, call: str, said: str) -> str:
    return REFUSED.format(module=module, call=call, said=said)


class Bytes:
    """Torch's reader of tensors alone makes it, as long as it says."""

    def __reduce__(self):
        return bytearray, (3_000_000_000,)


@pytest.mark.parametrize("new_format", [True, False])
def test_weights_that_ask_for_memory_that_is_not_in_the_file_are_refused(tmp_path, new_format):
    torch.save(
        {"a": torch.ones(2), "b": Bytes()}, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format
    )
    call = refused("orchestrator.pretrained.state_dict", "from_file(sys.argv[1], None, 1)", "a bytearray")
    assert peak_of(call, tmp_path / "w.pth") < 1500


def test_a_table_of_few_bytes_that_stand_for_many_is_refused(tmp_path):
    long, many = tmp_path / "long.parquet", tmp_path / "many.csv"
    texts = pyarrow.DictionaryArray.from_arrays(np.zeros(1024, np.int32), ["x" * 2_500_000])
    parquet.write_table(pyarrow.table({"path": texts}), long, dictionary_pagesize_limit=1 << 30)
    assert long.stat().st_size < 200_000
    read = "read_table(__import__('pathlib').Path(sys.argv[1]))"
    assert peak_of(refused("ekd_train.data.table_file", read, "a value has 2500000 bytes"), long) < 700
    many.write_text("," * 400_000 + "\n")
    assert peak_of(refused("ekd_train.data.table_file", read, "columns"), many) < 700


def test_columns_that_are_no_plain_values_are_passed_over(tmp_path):
    rows = {"path": ["a.png"], "label": ["cat"], "box": [[1, 2, 3, 4]]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet").columns) == ["path", "label"]


@pytest.mark.parametrize(
    ("module", "call", "said"),
    [
        ("orchestrator.experiment.schema", "load_experiment(sys.argv[1])", "longer than 1000000 characters"),
        ("orchestrator.tuning.space", "load_space(sys.argv[1])", "longer than 1000000 characters"),
        (
            "ekd_train.data.cifar_pickle",
            "read_pickle(__import__('pathlib').Path(sys.argv[1]))",
            "larger than",
        ),
        ("ekd_train.data.tiny_imagenet", "_columns(__import__('pathlib').Path(sys.argv[1]))", "larger than"),
    ],
)
def test_a_document_of_a_tebibyte_is_not_read(tmp_path, module, call, said):
    grow(tmp_path / "grown.yaml")
    assert peak_of(refused(module, call, said), tmp_path / "grown.yaml") < 900


def test_a_number_of_thousands_of_digits_is_one_line(tmp_path):
    (tmp_path / "x.yaml").write_text(f"seed: 0x{'f' * 5000}")
    with pytest.raises(ExperimentError, match="a whole number has more than 18 digits"):
        load_experiment(str(tmp_path / "x.yaml"))
