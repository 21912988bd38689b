import os
import resource

import pytest

from orchestrator.storage import StorageError, open_storage
from orchestrator.storage.preflight import check

ROUND_TRIP = ["write", "conditional write", "read", "list"]


def test_a_sound_storage_passes_and_keeps_nothing(storage):
    storage.write("mine", b"1")
    steps = check(storage, needs_bytes=1)
    extra = (["free space"], []) if storage.local_folder else ([], ["multipart"])
    assert [step.name for step in steps] == [*extra[0], *ROUND_TRIP, *extra[1], "delete"]
    assert [step.error for step in steps] == [None] * len(steps)
    assert all(step.seconds >= 0 for step in steps)
    assert storage.list() == ["mine"]


def test_too_little_space_is_an_error_that_names_both_amounts(tmp_path):
    [step] = check(open_storage(str(tmp_path / "new")), needs_bytes=1 << 60)
    assert step.name == "free space"
    assert "GiB are free, 1073741824.00 GiB are needed; free some space" in str(step.error)
    assert not (tmp_path / "new").exists()


def test_it_ends_at_the_first_failure_and_leaves_nothing(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path))

    def failing(self, prefix=""):
        raise StorageError("where", "broken", "mend it")

    monkeypatch.setattr(type(storage), "list", failing)
    steps = check(storage)
    assert [step.name for step in steps] == ["free space", *ROUND_TRIP]
    assert str(steps[-1].error) == "where: broken; mend it"
    assert os.listdir(tmp_path) == []


def test_a_storage_that_takes_no_byte_is_found(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        steps = check(open_storage(str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "larger than allowed" in str(steps[-1].error)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_store_that_ignores_conditions_is_a_warning(s3_on_disk, s3):
    warnings = {step.name: step.warning for step in check(s3_on_disk) if step.warning}
    assert list(warnings) == ["conditional write"]
    assert "never start a run twice" in warnings["conditional write"]
    assert all(step.warning is None for step in check(s3))


@pytest.mark.slow
def test_a_missing_bucket_is_found_at_the_first_write(moto):
    [step] = check(open_storage("s3://absent", moto.url, patience_s=1))
    assert step.name == "write"
    assert "the bucket does not exist" in str(step.error)
