import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage import open_storage
from orchestrator.storage.base import validate_key


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/data/runs", "/data/runs"),
        ("/data/../runs/", "/runs"),
        ("runs", str(Path.cwd() / "runs")),
        ("~/runs", str(Path.home() / "runs")),
        ("file:///data/my%20runs", "/data/my runs"),
        ("file://localhost/data", "/data"),
    ],
)
def test_a_folder_is_absolute_whatever_its_form(uri, folder):
    assert open_storage(uri).uri() == folder


@pytest.mark.parametrize(
    "uri",
    ["", " ", "gs://bucket/runs", "https://host/runs", "file://host/runs", "file://", "a\0b"],
)
def test_any_other_form_is_refused_and_the_valid_ones_are_named(uri):
    with pytest.raises(ValueError, match=r"file:///data/runs, s3://bucket/prefix$"):
        open_storage(uri)


def test_an_endpoint_makes_no_sense_for_a_folder():
    with pytest.raises(ValueError, match="endpoint_url is for s3:// only"):
        open_storage("/data/runs", "http://127.0.0.1:9000")


def test_importing_storage_loads_the_standard_library_only():
    code = """
import sys
before = set(sys.modules)
import orchestrator.storage
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
assert roots <= {"orchestrator", "ekd_train", *sys.stdlib_module_names}, roots
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "key",
    [
        "", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "./a", ".hidden", "a\\b", "a\nb", "a\0",
        "a\x7f", "a" * 201, "/".join(["a" * 99] * 10),
    ],
)  # fmt: skip
def test_a_key_that_could_leave_the_storage_is_refused_by_every_method(tmp_path, key):
    storage = open_storage(str(tmp_path / "runs"))
    for use in (
        storage.read,
        storage.read_versioned,
        storage.exists,
        storage.delete,
        storage.delete_prefix,
        storage.child,
        lambda key: storage.write(key, b""),
        lambda key: storage.write_if(key, b"", match=None),
    ):
        with pytest.raises(ValueError, match="storage key"):
            use(key)
    if key:
        for use in (storage.list, storage.uri):
            with pytest.raises(ValueError, match="storage key"):
                use(key)
    assert list(tmp_path.iterdir()) == []


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_whatever_key_is_accepted_stays_inside(key):
    try:
        validate_key(key)
    except ValueError:
        return
    root = Path("/storage")
    assert (root / key).resolve().is_relative_to(root)
    assert (root / key) != root
