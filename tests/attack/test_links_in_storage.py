"""Whoever may write to a shared storage folder may plant links in it: none of them leads out."""

import itertools
import json
import os
import sqlite3
import stat
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ekd_train.data.description import ImageSpec
from ekd_train.data.packed.fetch import fetch
from ekd_train.data.packed.index import write_arrays
from ekd_train.data.user_cache import cache_folder, locked
from ekd_train.models import build_model
from orchestrator.cli.main import main
from orchestrator.export import formats
from orchestrator.pipeline.pipeline import open_log
from orchestrator.storage import MissingKey, StorageError, open_storage
from orchestrator.tracking import TrackingError, check_tracking
from orchestrator.tracking.connection import connect

pytestmark = pytest.mark.attack


@pytest.fixture
def outside(tmp_path):
    """A folder of the user's, which no storage has anything to do with."""
    folder = tmp_path / "outside"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("kept", "checkpoints/kept", "manifest.json"):
        (folder / name).write_bytes(b"kept")
    return folder


@pytest.fixture
def storage(tmp_path):
    made = open_storage(str(tmp_path / "runs"))
    made.write("run/manifest.json", b"{}")
    return made


def assert_untouched(outside):
    assert sorted(os.listdir(outside)) == ["checkpoints", "kept", "manifest.json"]
    assert os.listdir(outside / "checkpoints") == ["kept"]
    assert {file.read_bytes() for file in outside.rglob("*") if file.is_file()} == {b"kept"}


def test_a_folder_of_a_run_that_is_a_link_is_removed_and_what_it_names_stays(storage, outside):
    link = storage.local_folder / "run" / "checkpoints"
    link.symlink_to(outside)
    storage.child("run").delete_prefix("checkpoints")
    assert not link.is_symlink()
    assert_untouched(outside)


def test_nothing_is_read_written_or_deleted_through_a_run_that_is_a_link(storage, outside):
    (storage.local_folder / "linked").symlink_to(outside)
    run = storage.child("linked")
    refused = {
        "read": lambda: run.read("kept"),
        "exists": lambda: run.exists("kept"),
        "list": run.list,
        "write": lambda: run.write("kept", b"changed"),
        "make a folder": lambda: run.write("new/key", b"changed"),
        "write_if": lambda: run.write_if("new", b"changed", match=None),
        "delete": lambda: run.delete("kept"),
        "delete_prefix": lambda: run.delete_prefix("checkpoints"),
        "of the whole": lambda: storage.delete_prefix("linked/checkpoints"),
    }
    for name, action in refused.items():
        with pytest.raises(StorageError, match="a link stands below the storage's folder") as error:
            action()
        assert not isinstance(error.value, MissingKey), name
    assert_untouched(outside)
    assert storage.list() == ["run/manifest.json"]
    storage.delete_prefix("linked")
    assert not (storage.local_folder / "linked").is_symlink()
    assert_untouched(outside)


def test_a_key_that_is_a_link_is_replaced_or_removed_itself(storage, outside):
    key = storage.local_folder / "run" / "key"
    key.symlink_to(outside / "kept")
    with pytest.raises(StorageError, match="a link stands"):
        storage.read("run/key")
    assert storage.list("run") == ["run/manifest.json"]
    storage.write("run/key", b"new")
    assert (storage.read("run/key"), key.is_symlink()) == (b"new", False)
    key.unlink()
    key.symlink_to(outside / "kept")
    storage.delete("run/key")
    assert not key.is_symlink()
    assert_untouched(outside)


def test_a_planted_link_of_a_file_that_is_about_to_be_written_is_not_followed(storage, outside):
    pending = storage.local_folder / "run" / ".pending-key"
    pending.symlink_to(outside / "kept")
    with pytest.raises(StorageError, match="a link stands"):
        storage.write("run/key", b"new")
    storage.delete_prefix("run")
    assert not pending.is_symlink()
    assert_untouched(outside)


def test_a_pipe_in_the_place_of_a_key_is_not_waited_for(storage):
    os.mkfifo(storage.local_folder / "run" / "pipe")
    with pytest.raises(MissingKey):
        storage.read("run/pipe")
    assert storage.list("run") == ["run/manifest.json"]


def test_a_folder_deeper_than_any_run_is_one_line(storage):
    here = os.open(storage.local_folder / "run", os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert storage.list() == ["run/manifest.json"]
    with pytest.raises(StorageError, match="a name in the path is too long"):
        storage.delete_prefix("run/d")


def test_the_users_own_link_to_the_storage_is_followed(tmp_path, storage):
    (tmp_path / "link").symlink_to(storage.local_folder)
    linked = open_storage(str(tmp_path / "link"))
    linked.write("run/key", b"new")
    assert storage.read("run/key") == b"new"


def test_cleaning_spares_what_a_link_among_the_runs_names(storage, outside, capsys):
    (storage.local_folder / "linked").symlink_to(outside)
    for command in (["clean", "linked"], ["clean", "linked", "--everything"], ["clean"]):
        main([*command, "--storage", storage.uri()])
        assert_untouched(outside)
    assert "a link stands below the storage's folder" in capsys.readouterr().err


def test_the_file_that_an_export_writes_first_has_no_name_that_anybody_could_plant(tmp_path, outside):
    for guessed in (".student.partial.pt2", ".student.pt2"):
        (tmp_path / guessed).symlink_to(outside / "kept")
    names = {formats._writable(tmp_path / "student.pt2", ".pt2") for _ in range(3)}
    assert len(names) == 3
    for name in names:
        found = name.lstat()
        assert stat.S_ISREG(found.st_mode)
        assert name.suffix == ".pt2"
    assert_untouched(outside)


def test_the_file_beside_an_export_is_not_written_through_a_link(tmp_path, outside):
    network = build_model("resnet", depth=8, num_classes=4, in_channels=1, image_size=8).eval()
    spec = ImageSpec(num_classes=4, image_shape=(1, 8, 8), mean=(0.0,), std=(1.0,))
    source = formats.Source(network, "0" * 64, "here", None, spec, ["a", "b", "c", "d"])
    for name in ("student.pt2", "student.pt2.json"):
        (tmp_path / name).symlink_to(outside / "kept")
    exported = formats.export_network(source, "pt2", tmp_path / "student.pt2")
    assert json.loads(exported.sidecar.read_text())["class_names"] == ["a", "b", "c", "d"]
    assert_untouched(outside)
    assert sorted(os.listdir(tmp_path)) == ["outside", "student.pt2", "student.pt2.json"]


def test_packed_images_are_not_fetched_or_made_through_a_link(tmp_path, outside, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_storage(str(tmp_path / "packs"))
    store.write("pack/index.safetensors", b"index")
    folder = cache_folder("packed") / "pack"
    folder.mkdir(parents=True)
    for name in ("index.pending", "index.safetensors.pending"):
        (folder / name).symlink_to(outside / "kept")
    (folder / "0123.pending").write_bytes(b"of a fetch that was killed")
    assert (fetch("pack", store) / "index.safetensors").read_bytes() == b"index"
    assert [file.name for file in folder.iterdir()] == ["index.safetensors"]
    write_arrays(folder / "index.safetensors", {"digests": np.zeros(3)})
    assert_untouched(outside)


def test_the_lock_of_a_cache_is_not_a_link_to_something_else(tmp_path, outside):
    (tmp_path / "lock").symlink_to(outside / "kept")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "own"), locked(tmp_path / "another"):
        pass
    assert_untouched(outside)


def test_the_lock_beside_mlflows_file_is_not_a_link_to_something_else(tmp_path, outside):
    (tmp_path / "mlflow.db.lock").symlink_to(outside / "kept")
    with pytest.raises(TrackingError, match="symbolic links"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert_untouched(outside)


@pytest.mark.parametrize("link", ["x", "x/logs", "x/logs/ray.log"])
def test_a_run_does_not_log_through_a_link(tmp_path, outside, link):
    """Messages of libraries, which others can word, would have been added to any file of this user."""
    folder = tmp_path / "runs"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside / "kept" if link.endswith(".log") else outside)
    checked = SimpleNamespace(storage=open_storage(str(folder)).child("x"), run_id="x")
    with pytest.raises(StorageError, match="a link stands below the storage's folder"):
        open_log(checked)
    assert_untouched(outside)


def test_a_database_that_is_a_link_to_another_is_not_opened(tmp_path, outside):
    (tmp_path / "mlflow.db").symlink_to(outside / "other.db")
    (tmp_path / "mlflow.db?x=1").write_bytes(b"")
    for opened, query in itertools.product((check_tracking, connect), ("", "?x=1")):
        with pytest.raises(TrackingError, match=r"mlflow\.db is a link; set tracking\.uri to what it names"):
            opened(f"sqlite:///{tmp_path}/mlflow.db{query}")
    assert_untouched(outside)


REGISTRY_COMMANDS = {
    "models": ["models"],
    "promote": ["promote", "models:/m/1", "--reason", "x"],
    "rollback": ["rollback", "m", "--reason", "x"],
    "export": ["export", "models:/m/1", "--output", "student.pt2"],
}


@pytest.mark.parametrize("command", REGISTRY_COMMANDS.values(), ids=REGISTRY_COMMANDS.keys())
def test_no_command_of_the_registry_opens_a_database_through_a_link(tmp_path, capsys, command):
    """They would change the aliases of whatever registry of this user a link names."""
    (tmp_path / "own.db").write_bytes(b"of the user")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").symlink_to(tmp_path / "own.db")
    assert main([*command, "--storage", str(tmp_path / "runs")]) != 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "mlflow.db is a link" in err
    assert (tmp_path / "own.db").read_bytes() == b"of the user"


def journal_that_names(file: Path, pages: int, page_bytes: int) -> bytes:
    """A hot rollback journal of SQLite that restores no page, and names `file` as its super-journal."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), bytes(file)
    header = magic + struct.pack(">5I", 0, 1, pages, 512, page_bytes)
    end = struct.pack(">I", (1 << 30) // page_bytes + 1) + name + struct.pack(">2I", len(name), sum(name))
    return header.ljust(512, b"\0") + end + magic


@pytest.mark.parametrize("opened", [check_tracking, connect], ids=["check", "connect"])
def test_a_journal_beside_mlflows_file_deletes_no_other(tmp_path, outside, opened):
    """SQLite would, at its first look into the database: `ekd models` is enough."""
    runs = tmp_path / "runs"
    runs.mkdir()
    with sqlite3.connect(runs / "mlflow.db") as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    pages = (runs / "mlflow.db").stat().st_size // 4096
    journal = runs / "mlflow.db-journal"
    journal.write_bytes(journal_that_names(outside / "kept", pages, 4096))
    with pytest.raises(TrackingError, match=r"mlflow\.db-journal names another file"):
        opened(f"sqlite:///{runs}/mlflow.db")
    assert_untouched(outside)
    with sqlite3.connect(runs / "mlflow.db") as connection:  # what it would have come to
        connection.execute("SELECT * FROM t")
    connection.close()
    assert not (outside / "kept").exists()
