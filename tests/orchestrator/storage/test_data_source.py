"""A data set in S3 is read as the same files in a folder are, and fetched once a machine."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import data_files
import pytest

from ekd_train.data import load_dataset
from ekd_train.data.user_cache import cache_folder
from ekd_train.settings import DataSettings
from orchestrator.errors import ExperimentError
from orchestrator.storage import StorageError, data_source
from orchestrator.storage.data_source import INDEX, local_data
from orchestrator.storage.s3 import S3Storage

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path, s3: S3Storage) -> Path:
    """An image folder, and the same objects in S3."""
    folder = data_files.write("image_folder", tmp_path / "images", 3)
    for file in folder.rglob("*"):
        if file.is_file():
            s3.write(file.relative_to(folder).as_posix(), file.read_bytes())
    return folder


def settings(root: str) -> DataSettings:
    return DataSettings(name="image_folder", root=root, validation_size=10)


def fetched(s3: S3Storage) -> Path:
    found = local_data(settings(s3.uri()), s3.endpoint_url).root
    assert found is not None
    return Path(found)


def test_it_is_the_same_data_set_wherever_it_lies(images: Path, s3: S3Storage) -> None:
    here = load_dataset(settings(str(images)))
    there = load_dataset(local_data(settings(s3.uri()), s3.endpoint_url))
    assert there.fingerprint == here.fingerprint


def test_only_what_is_new_is_fetched_and_what_is_gone_goes(images: Path, s3: S3Storage) -> None:
    folder = fetched(s3)
    first, second, third, *_ = sorted(file for file in folder.rglob("*.*") if not file.name.startswith("."))
    before = {file: os.stat(file).st_ino for file in (first, second, third)}
    s3.write(second.relative_to(folder).as_posix(), first.read_bytes())
    s3.delete(third.relative_to(folder).as_posix())
    assert fetched(s3) == folder
    assert os.stat(first).st_ino == before[first]
    assert second.read_bytes() == first.read_bytes()
    assert not third.exists()
    second.unlink()
    assert fetched(s3) == folder
    assert second.exists()


def test_whoever_is_killed_while_fetching_has_lost_no_more_than_the_last_seconds(
    images: Path, s3: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, calls = S3Storage.read_file, count()

    def killed_at_the_sixth(self: S3Storage, key: str, file: Path) -> None:
        if next(calls) == 5:
            os._exit(9)
        fetch(self, key, file)

    monkeypatch.setattr(data_source, "INDEX_EVERY_S", 0.0)
    monkeypatch.setattr(data_source, "ThreadPoolExecutor", lambda max_workers: ThreadPoolExecutor(1))
    monkeypatch.setattr(S3Storage, "read_file", killed_at_the_sixth)
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            fetched(s3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (index,) = cache_folder("data").rglob(INDEX)
    assert 4 <= len(json.loads(index.read_text())) <= 5
    monkeypatch.setattr(S3Storage, "read_file", fetch)
    assert (
        load_dataset(settings(str(fetched(s3)))).fingerprint
        == load_dataset(settings(str(images))).fingerprint
    )


def test_an_index_that_is_damaged_costs_no_more_than_fetching_again(images: Path, s3: S3Storage) -> None:
    folder = fetched(s3)
    index = folder / INDEX
    for damaged in (index.read_bytes()[:50], b"[]", b""):
        index.write_bytes(damaged)
        assert fetched(s3) == folder
    assert load_dataset(settings(str(folder))).fingerprint == load_dataset(settings(str(images))).fingerprint


def test_what_was_fetched_before_a_failure_is_kept(images: Path, s3: S3Storage, monkeypatch) -> None:
    read, seen = S3Storage.read_file, []

    def fail_at_the_fifth(self: S3Storage, key: str, path: Path) -> None:
        seen.append(key)
        if len(seen) == 5:
            raise StorageError("s3://bucket", "went away", "try again")
        read(self, key, path)

    monkeypatch.setattr(S3Storage, "read_file", fail_at_the_fifth)
    with pytest.raises(StorageError, match="went away"):
        fetched(s3)
    kept = len(seen)
    seen.clear()
    seen.extend("-----")
    fetched(s3)
    assert len(seen) - 5 < len(s3.list()), f"{kept} had been asked for"


@pytest.mark.parametrize(
    ("root", "changes", "complaint"),
    [
        ("s3://bucket/nothing-here", {}, r"data\.root: there is nothing below s3://bucket/nothing-here"),
        ("s3://KEY:secret@bucket/x", {}, r"data\.root: it begins with s3:// but no valid bucket name"),
        ("s3://bucket/x", {"download": True}, r"data\.download"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(s3: S3Storage, root: str, changes: dict, complaint: str) -> None:
    with pytest.raises(ExperimentError, match=complaint) as refused:
        local_data(settings(root).model_copy(update=changes), s3.endpoint_url)
    assert "secret" not in str(refused.value)


def test_a_store_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.data_source.PATIENCE_S", 0.1)
    with pytest.raises(StorageError):
        local_data(settings("s3://bucket/x"), "http://127.0.0.1:9")
    assert not any(cache_folder("data").rglob("*.png"))


def test_a_folder_stays_what_it_is() -> None:
    data = settings("/somewhere")
    assert local_data(data, None) is data
