"""A pt2 archive is code. Somebody replaces one where a registry keeps its files: nothing of it runs."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities import FileInfo

from ekd_train.models import build_model
from orchestrator.errors import ExperimentError
from orchestrator.export.source import from_registry
from orchestrator.registry.exported_model import (
    ARCHIVE,
    ARCHIVE_TAG,
    ExportError,
    archive_sha256,
    files_to_fetch,
    load_exported,
    save_exported,
)
from orchestrator.tracking.connection import connect

pytestmark = [pytest.mark.attack, pytest.mark.slow]

SHAPE = (1, 8, 8)


class Files:
    """What `save_exported` asks of MLflow's logged model."""

    artifact_location, model_id = "here", "m-1"


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Path:
    """The files of a genuine model, as they are registered."""
    torch.manual_seed(0)
    student = build_model(
        name="resnet", depth=8, num_classes=4, in_channels=1, image_size=8, mean=[0.2], std=[0.3]
    )
    folder = tmp_path_factory.mktemp("registered") / "model"
    images = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    save_exported(student, images, folder, Files(), "run")
    return folder


@pytest.fixture
def files(registered, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(registered, tmp_path / "model"))


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


def with_records(archive: Path, change) -> None:
    """Write the archive again with `change(name, content)` in the place of each record."""
    with zipfile.ZipFile(archive) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in records.items():
            new.writestr(name, change(name, content))


def evil_weight(archive: Path, file: Path) -> None:
    """The first weight becomes a pickle, and the configuration says so."""
    content = io.BytesIO()
    torch.save(Evil(file), content, pickle_module=pickle)

    def change(name: str, record: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return content.getvalue()
        if name.endswith("model_weights_config.json"):
            config = json.loads(record)
            for entry in config["config"].values():
                entry["use_pickle"] |= entry["path_name"] == "weight_0"
            return json.dumps(config).encode()
        return record

    with_records(archive, change)


def evil_expression(archive: Path, file: Path) -> None:
    """A size becomes an expression, which torch evaluates: no pickle is in this archive."""
    code = f"__import__('os').mkdir({str(file)!r})"

    def change(name: str, record: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return record
        program = json.loads(record)
        replace_expressions(program, code)
        return json.dumps(program).encode()

    with_records(archive, change)


def replace_expressions(value, code: str) -> None:
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(each, dict) and "expr_str" in each:
            each["expr_str"] = code
        replace_expressions(each, code)


EVIL = {"a pickle for a weight": evil_weight, "code for a size": evil_expression}


@pytest.mark.parametrize("spoil", EVIL.values(), ids=EVIL.keys())
def test_these_archives_do_run_code_where_they_are_loaded(files, tmp_path, spoil):
    """Else the tests below would show nothing."""
    spoil(files / ARCHIVE, tmp_path / "ran")
    with contextlib.suppress(Exception):
        torch.export.load(files / ARCHIVE)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("spoil", EVIL.values(), ids=EVIL.keys())
def test_an_archive_of_other_bytes_is_refused_before_it_is_loaded(registered, files, tmp_path, spoil):
    spoil(files / ARCHIVE, tmp_path / "ran")
    with pytest.raises(ExportError, match=r"the SHA-256 of its data/model.pt2 is .* is not loaded"):
        load_exported(files, archive_sha256(registered))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_is_refused_even_where_the_recorded_hash_was_replaced_too(files, tmp_path):
    evil_weight(files / ARCHIVE, tmp_path / "ran")
    with pytest.raises(ExportError, match="the registered files cannot be read") as caught:
        load_exported(files, archive_sha256(files))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused_unopened(files):
    """Its hash is the registered one: whoever writes the registry wrote that as well."""
    with zipfile.ZipFile(files / ARCHIVE, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(100 << 20))
    with pytest.raises(ExportError, match=r"cannot be read: its \d+ bytes unpack to \d+") as caught:
        load_exported(files, archive_sha256(files))
    assert "\n" not in str(caught.value)


def test_no_code_beside_the_archive_is_used(registered, files, tmp_path):
    """MLflow puts a model's `code` before all that Python imports, and imports a module that it names."""
    (files / "code").mkdir()
    (files / "code" / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    model = (files / "MLmodel").read_text()
    (files / "MLmodel").write_text(
        model.replace("    model_data: data", "    code: code\n    model_data: data")
    )
    assert "code: code" in (files / "MLmodel").read_text()
    (files / "data" / "model.pth").write_bytes(b"")
    (files / "data" / "pickle_module_info.txt").write_text("evil")
    images = torch.rand(5, *SHAPE)
    loaded = load_exported(files, archive_sha256(registered))
    assert not (tmp_path / "ran").exists()
    torch.testing.assert_close(loaded(images), load_exported(registered, archive_sha256(registered))(images))


def test_the_recorded_hash_is_of_the_bytes(registered):
    assert archive_sha256(registered) == hashlib.sha256((registered / ARCHIVE).read_bytes()).hexdigest()


def test_a_file_of_another_hash_than_the_user_states_is_not_even_fetched(files, tmp_path):
    """Whoever may write the registry has put the evil file's hash into its tag."""
    genuine = archive_sha256(files)
    evil_expression(files / ARCHIVE, tmp_path / "ran")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(files), tags={ARCHIVE_TAG: archive_sha256(files)})
    with pytest.raises(ExperimentError, match=r"but weights_sha256 states .* it is not loaded"):
        from_registry(client, "models:/m/1", uri, stated=genuine)
    assert not (tmp_path / "ran").exists()


def test_of_a_model_the_program_and_its_description_are_fetched_and_nothing_beside_them(files, tmp_path):
    """Whoever writes the registry's artifacts could fill the disk of whoever exports a model."""
    with open(files / "data" / "more.bin", "wb") as more:
        more.truncate(1 << 40)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(files), tags={ARCHIVE_TAG: archive_sha256(files)})
    with pytest.raises(ExportError, match=r"the weights' SHA-256 is \w+\.\.\., recorded was none"):  # read
        from_registry(client, "models:/m/1", uri)


@pytest.mark.parametrize("name", ["MLmodel", ARCHIVE])
def test_a_file_that_is_too_large_is_not_fetched(files, tmp_path, name):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(files), tags={ARCHIVE_TAG: archive_sha256(files)})
    os.truncate(files / name, 1 << 40)
    with pytest.raises(ExportError, match=rf"models:/m/1: its {name} has 1099511627776 bytes; at most \d+"):
        from_registry(client, "models:/m/1", uri)


@pytest.mark.parametrize("name", ["MLmodel", ARCHIVE])
def test_a_file_whose_size_the_store_keeps_to_itself_is_not_fetched(name):
    told = {"MLmodel": 100, ARCHIVE: 1000} | {name: None}
    with pytest.raises(ExportError, match=rf"does not tell the size of {name}; download the model yourself"):
        files_to_fetch(FileInfo(path, is_dir=False, file_size=size) for path, size in told.items())
