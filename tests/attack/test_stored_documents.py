"""Documents that somebody else may have written: each is read, or one clear error says why not."""

import hashlib
import json
import struct
import time

import pytest
import safetensors.torch
import torch
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.persistence.checkpoint import Checkpoints, DamagedCheckpoint, load_record, load_tensors
from ekd_train.persistence.networks import load_average, save_average
from ekd_train.persistence.records import NetworkRecord
from orchestrator.errors import ExperimentError
from orchestrator.experiment.yaml_tree import read_yaml
from orchestrator.export.source import class_names_in, spec_of
from orchestrator.registry.exported_model import ExportError

pytestmark = pytest.mark.attack


class Memory(dict):
    """A store in memory."""

    def read(self, key, most_bytes=1 << 20):
        if len(self[key]) > most_bytes:
            raise ValueError(f"{key}: larger than {most_bytes} bytes")
        return self[key]

    def write(self, key, data):
        self[key] = data

    def list(self, prefix=""):
        return sorted(key for key in self if key.startswith(f"{prefix}/"))

    def delete(self, key):
        self.pop(key, None)


def with_header(header: bytes, tensors: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


def described(**tensor) -> bytes:
    whole = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | tensor
    return with_header(json.dumps({"weight": whole}).encode(), bytes(4))


LIES = {
    "no header": b"",
    "a header longer than the file": struct.pack("<Q", 1 << 60) + b"{}",
    "a header that is no JSON": with_header(b"\xff" * 8),
    "a header without end": with_header(b"[" * 100_000),
    "a tensor that is no tensor": with_header(b'{"weight": 5}'),
    "more than there is": described(shape=[1 << 40], data_offsets=[0, 1 << 42]),
    "another size than its bytes": described(shape=[2]),
    "a shape that overflows": described(shape=[1 << 33, 1 << 33]),
    "a negative shape": described(shape=[-1]),
    "an unknown type": described(dtype="PICKLE"),
    "bytes of another tensor": described(data_offsets=[2, 6]),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_safetensors_that_lie_are_a_damaged_checkpoint(data):
    """Their hash is right: whoever wrote them wrote it as well."""
    with pytest.raises(DamagedCheckpoint, match=r"^key: not safetensors") as caught:
        load_tensors(Memory(key=data), "key", hashlib.sha256(data).hexdigest(), 1 << 20)
    assert "\n" not in str(caught.value)


@fuzzed
@given(st.data())
def test_a_damaged_header_of_tensors_is_read_or_named(data):
    content = bytearray(safetensors.torch.save({"a": torch.ones(3, 2), "b": torch.zeros(1).half()}))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    assert loaded(content) is None or all(
        isinstance(tensor, torch.Tensor) for tensor in loaded(content).values()
    )


def loaded(content):
    try:
        return load_tensors(Memory(key=content), "key", hashlib.sha256(content).hexdigest(), 1 << 20)
    except DamagedCheckpoint:
        return None


def test_weights_of_another_network_are_named():
    store = Memory()
    save_average(store, torch.nn.Linear(5, 7), NetworkRecord(identity="i"))
    with pytest.raises(
        DamagedCheckpoint, match="networks/averaged: of another network than its run's"
    ) as caught:
        load_average(store, torch.nn.Linear(3, 2))
    assert "\n" not in str(caught.value)


def stored(record) -> bytes:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return json.dumps({"record": record, "sha256": digest}).encode()


def test_a_checkpoint_that_lies_is_passed_over_for_the_one_before_it():
    store = Memory()
    checkpoints = Checkpoints(store, "c", "identity", keep=9)
    with checkpoints.storing():
        checkpoints.save(1, {"w": torch.ones(2)}, {"x": 1}, None)
    whole = load_record(store, "c/epoch-00001.json")
    lies = [5, [], {}, {"identity": "identity"}, whole | {"sha256": None}, whole | {"best": 5}]
    lies += [whole | {"best": {"key": "../outside", "sha256": "0"}}, whole | {"best": {"a": 1}}, whole]
    for epoch, lie in enumerate(lies, 2):
        store[f"c/epoch-{epoch:05d}.json"] = stored(lie)
        store[f"c/epoch-{epoch:05d}.safetensors"] = store["c/epoch-00001.safetensors"]
    store["c/epoch-x.json"] = store["c/best-.safetensors"] = store["c/epoch-1.exe"] = b""
    store["c/epoch-99999.json"] = b"[" * 200_000
    found = Checkpoints(store, "c", "identity").newest()
    assert found is not None
    assert found.epoch == 1
    assert torch.equal(found.tensors["w"], torch.ones(2))


def test_a_checkpoint_without_a_tensor_that_its_record_names_is_passed_over():
    """Its hash is right; without a momentum the optimiser's next step would end the run."""
    store = Memory()
    checkpoints = Checkpoints(store, "c", "identity", keep=9)
    with checkpoints.storing():
        for epoch in (1, 2):
            checkpoints.save(epoch, {"w": torch.ones(2), "momentum.w": torch.ones(2)}, {}, None)
    fewer = safetensors.torch.save({"w": torch.ones(2)})
    record = load_record(store, "c/epoch-00002.json") | {"sha256": hashlib.sha256(fewer).hexdigest()}
    store["c/epoch-00002.safetensors"], store["c/epoch-00002.json"] = fewer, stored(record)
    found = Checkpoints(store, "c", "identity").newest()
    assert found is not None
    assert found.epoch == 1
    store["c/epoch-00002.json"] = stored({key: record[key] for key in record if key != "names"})
    found = Checkpoints(store, "c", "identity").newest()  # an earlier version noted none
    assert found is not None
    assert found.epoch == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@fuzzed
@given(json_values)
def test_honest_json_is_read_as_json_reads_it(value):
    assert read_bounded_json(json.dumps(value)) == value


@fuzzed
@given(st.binary() | st.text() | st.text("[]{}:,\"'0e-. \\u"))
def test_any_other_json_is_a_value_error(content):
    try:
        expected = json.loads(content)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - what is tested is that nothing else is raised
            read_bounded_json(content)
    else:
        assert repr(read_bounded_json(content)) == repr(expected)


@pytest.mark.parametrize("deep", ["[" * 200_000, "[" * 900 + "]" * 900, '{"a":' * 70 + "1" + "}" * 70])
def test_deep_json_is_a_value_error(deep):
    with pytest.raises(ValueError, match=r"nested more|Expecting"):
        read_bounded_json(deep)


def test_a_few_merge_keys_do_not_stand_for_millions():
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(9)) + "}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    text = "\n".join(lines)
    assert len(text) < 600
    began = time.process_time()
    with pytest.raises(
        ExperimentError, match=r"x\.yaml: not valid YAML: line .*merge keys .* more than 100000"
    ):
        read_yaml(text, "x.yaml")
    assert time.process_time() - began < 5


def test_an_honest_merge_key_means_what_it_says():
    text = "base: &base {epochs: 2, batch_size: 8}\nstudent: {<<: *base, epochs: 4}"
    assert read_yaml(text, "x.yaml")["student"] == {"epochs": 4, "batch_size": 8}


HOSTILE_YAML = {
    "aliases of aliases": "\n".join(
        ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    ),
    "within itself": "a: &a [*a]",
    "deep": "[" * 100_000,
    "a Python object": "!!python/object/apply:os.system ['true']",
    "long": "x" * 1_000_001,
    "a long number": "a: " + "9" * 10_000,
    "merged with no mapping": "a: {<<: 5}",
    "a number of base 60": f'a: !!int "{":".join(["1"] * 400_000)}"',
    "one that is too large": f'a: !!float "{":".join(["1"] * 200)}"',
    "many values": f"a: [{','.join(['1'] * 200_000)}]",
}


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML.keys())
def test_hostile_yaml_is_one_line(text):
    with pytest.raises(ExperimentError, match=r"x\.yaml") as caught:
        read_yaml(text, "x.yaml")
    assert "\n" not in str(caught.value)


tagged = st.builds(
    "a: !{}{} {}".format,
    st.sampled_from(["", "!", "<tag:yaml.org,2002:"]),
    st.sampled_from(["int", "float", "binary", "timestamp", "set", "omap", "pairs", "null", "bool", "merge"]),
    st.text("01:._-+eE[]{},x", max_size=300),
)


@fuzzed
@given(st.text() | st.text("[]{}:,&*<!-#?|>'\" \n\tab01.~") | tagged)
def test_any_text_is_a_value_or_an_experiment_error(text):
    value = readable(text)
    assert value is None or isinstance(value, bool | int | float | str | list | dict)


def readable(text):
    try:
        return read_yaml(text, "x.yaml")
    except ExperimentError:
        return None


HOSTILE_MLMODEL = {
    "aliases": HOSTILE_YAML["aliases of aliases"],
    "within itself": "metadata: &a {class_names: *a}",
    "an object": "metadata: !!python/object/apply:os.system ['true']",
    "no mapping": "[]",
    "no metadata": "metadata: 5",
    "a number": "metadata: {class_names: 5}",
    "numbers": "metadata: {class_names: [5]}",
    "long": "metadata: " + "x" * 2_000_000,
    "bytes": "\x00",
}


@pytest.mark.parametrize("text", HOSTILE_MLMODEL.values(), ids=HOSTILE_MLMODEL.keys())
def test_what_lies_beside_a_registered_program_is_read_or_named(tmp_path, text):
    """The hash of the program does not cover it."""
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ExportError, match=r"^models:/m/1: its file MLmodel cannot be read: ") as caught:
        class_names_in(tmp_path, "models:/m/1")
    assert "\n" not in str(caught.value)


class OfTwo(torch.nn.Module):
    def forward(self, images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return images + more


@pytest.mark.parametrize("module", [OfTwo(), torch.nn.Linear(3, 2)], ids=["two inputs", "no shapes"])
def test_a_program_of_something_else_is_named(module):
    with pytest.raises(ExportError, match=r"^m: not a program from images .* to logits: ") as caught:
        spec_of(torch.fx.symbolic_trace(module), "m")
    assert "\n" not in str(caught.value)
