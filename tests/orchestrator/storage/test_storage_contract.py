"""What every implementation of Storage does alike; each test runs against all of them."""

import pickle
import subprocess
import sys
import time

import pytest

from orchestrator.storage import Conflict, MissingKey, TooLarge, open_storage


@pytest.fixture
def conditional(storage, request):
    if request.node.callspec.params["storage"] == "s3_on_disk":
        pytest.skip("rclone ignores the condition of a write; preflight warns of such stores")
    return storage


def test_what_was_written_is_read(storage):
    storage.write("a/b", b"1")
    storage.write("a/b", b"2")
    storage.write("empty", b"")
    assert storage.read("a/b") == storage.read_versioned("a/b")[0] == b"2"
    assert storage.read("empty") == b""
    assert storage.exists("a/b")
    assert storage.uri("a/b") == storage.uri() + "/a/b"


def test_large_objects_go_in_and_out(storage):
    content = bytes(range(256)) * (80 << 10)  # 20 MiB: several parts in S3
    storage.write("big", content)
    assert storage.read("big") == content
    storage.write("big", content[:-1])
    assert len(storage.read("big")) == (20 << 20) - 1


def test_an_object_of_more_bytes_than_it_may_have_is_not_read(storage):
    storage.write("object", bytes(11))
    with pytest.raises(TooLarge, match=f"^{storage.uri('object')}: 11 bytes, more than the 10 that it may"):
        storage.read("object", 10)
    assert storage.read("object", 11) == bytes(11)


@pytest.mark.parametrize("key", ["absent", "folder", "folder/file/below"])
def test_what_is_not_stored_is_missing(storage, key):
    storage.write("folder/file", b"")
    for read in (storage.read, storage.read_versioned):
        with pytest.raises(MissingKey, match=f"{storage.uri(key)}: nothing is stored here"):
            read(key)
    assert not storage.exists(key)


@pytest.mark.parametrize("key", ["absent", "folder", "folder/file/below"])
def test_deleting_what_is_not_stored_does_nothing(storage, key, request):
    if request.node.callspec.params["storage"] == "s3_on_disk" and key != "absent":
        pytest.skip("rclone takes the names of objects for paths of files and deletes another object")
    storage.write("folder/file", b"")
    storage.delete(key)
    assert storage.list() == ["folder/file"]


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(storage):
    for key in ("b/2", "b/1", "b-2/1", "b/sub/3", "a"):
        storage.write(key, b"")
    assert storage.list() == ["a", "b-2/1", "b/1", "b/2", "b/sub/3"]
    assert storage.list("b") == ["b/1", "b/2", "b/sub/3"]
    assert storage.list("absent") == storage.list("a") == []
    storage.delete_prefix("b")
    storage.delete_prefix("b")
    storage.delete("a")
    storage.delete("a")
    assert storage.list() == ["b-2/1"]


def test_a_child_is_rooted_below(storage):
    child = storage.child("run-1")
    child.write("manifest.json", b"{}")
    assert storage.list() == ["run-1/manifest.json"]
    assert child.list() == ["manifest.json"]
    assert child.uri() == storage.uri("run-1")
    assert child.top == child.child("networks").top == storage == storage.top


def test_a_conditional_write_succeeds_only_from_the_version_that_was_read(conditional):
    first = conditional.write_if("manifest", b"1", match=None)
    assert conditional.read_versioned("manifest") == (b"1", first)
    second = conditional.write_if("manifest", b"2", match=first)
    for match in (None, first):
        with pytest.raises(Conflict):
            conditional.write_if("manifest", b"3", match=match)
    assert conditional.read_versioned("manifest") == (b"2", second)
    conditional.delete("manifest")
    with pytest.raises(Conflict):
        conditional.write_if("manifest", b"3", match=second)
    assert conditional.list() == []


INCREMENT = """
import pickle, sys
from orchestrator.storage import Conflict
storage = pickle.load(sys.stdin.buffer)
wins = 0
while wins < 20:
    data, version = storage.read_versioned("counter")
    try:
        storage.write_if("counter", str(int(data) + 1).encode(), match=version)
        wins += 1
    except Conflict:
        pass
"""


def test_racing_processes_lose_no_update(conditional):
    conditional.write("counter", b"0")
    racers = [subprocess.Popen([sys.executable, "-c", INCREMENT], stdin=subprocess.PIPE) for _ in range(2)]
    for racer in racers:
        racer.stdin.write(pickle.dumps(conditional))
        racer.stdin.close()
    assert [racer.wait(300) for racer in racers] == [0, 0]
    assert conditional.read("counter") == b"40"


CLAIM = """
import pickle, sys, time
from orchestrator.storage import Conflict
storage, start = pickle.load(sys.stdin.buffer)
storage.exists("owner")  # the connection is there
time.sleep(max(0, start - time.time()))
try:
    storage.write_if("owner", b"me", match=None)
    print("won")
except Conflict:
    print("lost")
"""


def test_of_two_processes_that_claim_a_key_with_the_same_bytes_one_wins(conditional):
    start = time.time() + 2
    racers = [
        subprocess.Popen([sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for racer in racers:
        racer.stdin.write(pickle.dumps((conditional, start)))
        racer.stdin.flush()
    assert sorted(racer.communicate(timeout=300)[0].strip() for racer in racers) == [b"lost", b"won"]


def test_it_travels_to_other_processes_without_credentials(storage):
    storage.exists("key")  # now there is a client, where one is used
    pickled = pickle.dumps(storage)
    assert pickle.loads(pickled) == storage  # noqa: S301 (our own bytes)
    assert b"secret" not in pickled
    conflict = pickle.loads(pickle.dumps(Conflict("where")))  # noqa: S301
    assert isinstance(conflict, Conflict)
    assert str(conflict) == str(Conflict("where"))


def test_an_equal_storage_is_equal(tmp_path):
    assert open_storage(str(tmp_path)).child("a") == open_storage(str(tmp_path / "a"))


def test_the_age_of_an_object_is_told_by_the_stores_clock(storage, monkeypatch):
    storage.write("a", b"")
    monkeypatch.setattr(time, "time", lambda: pytest.fail("this host's clock is asked"))
    assert -1 <= storage.age_s("a") < 3600
    with pytest.raises(MissingKey):
        storage.age_s("absent")
