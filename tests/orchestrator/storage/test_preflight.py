import os
import resource

import pytest

from orchestrator.storage import StorageError, open_storage
from orchestrator.storage.preflight import check_room, check_storage


def test_a_sound_storage_passes_and_keeps_nothing(storage):
    storage.write("mine", b"1")
    check_storage(storage)
    assert storage.list() == ["mine"]


def test_too_little_space_is_an_error_that_names_both_amounts(tmp_path):
    with pytest.raises(StorageError, match=r"GiB are free, 1073741824\.00 GiB are needed; free some space"):
        check_room(open_storage(str(tmp_path / "new")), 1 << 60)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("broken", ["write", "write_if", "read", "list"])
def test_it_ends_at_the_first_failure_and_leaves_nothing(tmp_path, monkeypatch, broken):
    storage = open_storage(str(tmp_path))

    def failing(self, *_, **__):
        raise StorageError("where", "broken", "mend it")

    monkeypatch.setattr(type(storage), broken, failing)
    with pytest.raises(StorageError, match="where: broken; mend it"):
        check_storage(storage)
    assert os.listdir(tmp_path) == []


def test_a_storage_that_takes_no_byte_is_found(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(StorageError, match="larger than allowed"):
            check_storage(open_storage(str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_store_that_ignores_conditions_is_a_warning(s3_on_disk, s3):
    assert "never start a run twice" in (check_storage(s3_on_disk) or "")
    assert check_storage(s3) is None


@pytest.mark.slow
def test_a_missing_bucket_is_found_at_the_first_write(moto):
    with pytest.raises(StorageError, match="the bucket does not exist"):
        check_storage(open_storage("s3://absent", moto.url, patience_s=1))
