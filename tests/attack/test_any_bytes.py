"""Files of others, with bytes changed, cut out and put in: each is read, or named in one line."""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import safetensors.torch
import torch
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from ekd_train.data.cifar_pickle import read_pickle
from ekd_train.data.hugging_face import _described
from ekd_train.data.idx import read_idx
from ekd_train.data.packed.index import INDEX, read_index, write_arrays
from ekd_train.data.table_file import read_table
from ekd_train.errors import EkdError
from orchestrator.export.source import class_names_in
from orchestrator.pretrained.state_dict import from_file

pytestmark = pytest.mark.attack


def _saved(**options) -> bytes:
    file = io.BytesIO()
    torch.save({"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}, file, **options)
    return file.getvalue()


def _table(write: str) -> bytes:
    rows = pandas.DataFrame({"path": ["a.png", "b.png"], "label": ["cat", "dog"], "split": ["train", "test"]})
    file = io.BytesIO()
    getattr(rows, write)(file, index=False)
    return file.getvalue()


def _index(folder: Path) -> bytes:
    arrays = {"digests": np.zeros((3, 16), dtype=np.uint8), "shards": np.array([0, 3])}
    arrays |= {"mean": np.full(3, 0.5), "std": np.full(3, 0.2)}
    write_arrays(folder / INDEX, arrays)
    return (folder / INDEX).read_bytes()


CIFAR = {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [1, 2], b"batch_label": b"one"}
README = (
    b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n"
)
MLMODEL = b"flavors:\n  pytorch: {model_data: data}\nmetadata:\n  class_names: [cat, dog]\nrun_id: 0a\n"

FORMATS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "IDX": ("x", lambda _: struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(8), lambda f: read_idx(f, 3)),
    "CIFAR": ("x", lambda _: pickle.dumps(CIFAR, protocol=2), read_pickle),
    "CSV": ("x.csv", lambda _: _table("to_csv"), read_table),
    "parquet": ("x.parquet", lambda _: _table("to_parquet"), read_table),
    "state dict": ("x.pth", lambda _: _saved(), lambda f: from_file(str(f), None, 1)),
    "state dict as before 2020": (
        "x.pth",
        lambda _: _saved(_use_new_zipfile_serialization=False),
        lambda f: from_file(str(f), None, 1),
    ),
    "safetensors": (
        "x.safetensors",
        lambda _: safetensors.torch.save({"a.weight": torch.ones(2, 3)}),
        lambda f: from_file(str(f), None, 1),
    ),
    "index of a pack": (INDEX, _index, lambda f: read_index(f.parent)),
    "README of a data set": ("README.md", lambda _: README, lambda f: _described(f.parent)),
    "MLmodel": ("MLmodel", lambda _: MLMODEL, lambda f: class_names_in(f.parent, "models:/m/1")),
}
"""By what they are: the file's name, a genuine one's bytes, and its reader."""

EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), st.binary(max_size=8)), max_size=6)


def edited(genuine: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """With some bytes replaced, one place after the other."""
    for at, length, new in edits:
        place = at % (len(genuine) + 1)
        genuine = genuine[:place] + new + genuine[place + length :]
    return genuine


@pytest.fixture(scope="module", params=FORMATS)
def kind(request, tmp_path_factory):
    name, make, read = FORMATS[request.param]
    folder = tmp_path_factory.mktemp("bytes")
    return folder / name, make(folder), read


def test_the_genuine_file_is_read(kind):
    file, genuine, read = kind
    file.write_bytes(genuine)
    read(file)


@fuzzed
@given(edits=EDITS)
def test_any_other_bytes_are_read_or_named_in_a_line(kind, edits):
    file, genuine, read = kind
    file.write_bytes(edited(genuine, edits))
    said = "read"
    try:
        read(file)
    except EkdError as error:
        said = str(error)
    assert said
    assert "\n" not in said
