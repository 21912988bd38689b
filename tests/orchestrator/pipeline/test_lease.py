import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from ekd_train.persistence.records import NewerRecord
from orchestrator.pipeline import lease as lease_module
from orchestrator.pipeline import lease_holder
from orchestrator.pipeline.lease import Lease, LeaseHeld, TakenOver
from orchestrator.pipeline.lease_holder import LEASE, holder_in, this_process
from orchestrator.storage import Conflict, StorageError
from orchestrator.storage.local import LocalStorage

QUICK = {"lease_s": 0.6, "renew_s": 0.1}


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path)


def put_holder(storage: LocalStorage, **changes) -> dict:
    holder = this_process().model_dump() | {"token": "another", "since": time.time()} | changes
    storage.write(LEASE, json.dumps(holder).encode())
    return holder


def eventually(holds, seconds: float = 300.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_a_second_driver_is_refused_with_the_first_ones_name(storage):
    with (
        Lease(storage).acquire(),
        pytest.raises(LeaseHeld, match=rf"process {os.getpid()} on {socket.gethostname()}; wait for it"),
    ):
        Lease(storage).acquire()


def test_time_in_which_the_store_was_away_is_not_held_against_the_holder(storage, monkeypatch):
    """A holder that could not renew either renews as soon as the store is back."""
    put_holder(storage, host="elsewhere", boot="b", pids="p")
    waiter, reads = Lease(storage, lease_s=1.0, renew_s=0.2), []
    read, clock = LocalStorage.read_versioned, SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    def read_slowly(self, key):
        reads.append(key)
        if len(reads) == 2:
            sleep(1.5)
        if len(reads) == 4:
            put_holder(storage, host="elsewhere", boot="b", pids="p", since=time.time() + 1)
        return read(self, key)

    monkeypatch.setattr(LocalStorage, "read_versioned", read_slowly)
    made_up = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep, time=time.time)
    monkeypatch.setattr(lease_module, "time", made_up)
    with pytest.raises(LeaseHeld):
        waiter.acquire()
    assert len(reads) == 4


def given_up(storage: LocalStorage) -> bool:
    holder = holder_in(storage.read(LEASE))
    assert holder is not None
    return holder.released


def test_a_run_that_was_given_up_is_free(storage):
    with Lease(storage).acquire():
        assert not given_up(storage)
    assert given_up(storage)
    Lease(storage).acquire(lambda said: pytest.fail(f"it waits: {said}")).release()


def test_a_run_that_was_given_up_on_another_host_is_free_at_once(storage):
    put_holder(storage, host="elsewhere", released=True)
    Lease(storage).acquire(lambda said: pytest.fail(f"it waits: {said}")).release()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_run_whose_driver_was_killed_on_this_host_is_taken_over_at_once(storage, reaped):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    put_holder(storage, pid=process.pid, started=lease_holder._start_of(process.pid))
    with pytest.raises(LeaseHeld):
        Lease(storage).acquire()
    process.kill()
    if reaped:
        process.wait()
    else:  # a zombie, as under an init that waits for nobody
        assert eventually(lambda: lease_holder._start_of(process.pid) is None)
    Lease(storage).acquire(lambda said: pytest.fail(f"it waits: {said}")).release()
    process.communicate()


def test_a_process_id_that_another_process_has_now_is_no_holder(storage):
    put_holder(storage, started="1")
    Lease(storage).acquire().release()


@pytest.mark.parametrize("where", ["host", "boot", "pids"])
def test_elsewhere_the_lease_is_waited_for_and_then_taken_over(storage, where):
    put_holder(storage, **{where: "elsewhere"}, pid=2**22 + 1)
    said: list[str] = []
    began = time.monotonic()
    with Lease(storage, **QUICK).acquire(said.append):
        assert time.monotonic() - began >= QUICK["lease_s"]
    assert len(said) == 1
    assert "to see if it lives" in said[0]


def test_elsewhere_a_driver_that_renews_is_refused(storage):
    holder = put_holder(storage, host="elsewhere")

    class Renewed(LocalStorage):
        def read_versioned(self, key):
            holder["since"] += 1
            storage.write(LEASE, json.dumps(holder).encode())
            return super().read_versioned(key)

    with pytest.raises(LeaseHeld, match="on elsewhere"):
        Lease(Renewed(storage.folder), **QUICK).acquire()


def test_without_proc_a_dead_holder_is_waited_for_not_refused_for_ever(storage, monkeypatch):
    # Other systems than Linux: nothing is known about the processes of this host.
    monkeypatch.setattr(lease_holder, "_read_text", lambda path: "")
    monkeypatch.setattr(lease_holder, "_pid_namespace", lambda: "")
    put_holder(storage, pid=2**22 + 1)
    Lease(storage, **QUICK).acquire().release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"{}"])
def test_a_damaged_lease_belongs_to_nobody(storage, content):
    storage.write(LEASE, content)
    Lease(storage).acquire().release()


def of_a_newer_version(storage) -> bytes:
    holder = this_process("theirs", 7).model_dump() | {"format": 2, "host": "elsewhere"}
    return json.dumps(holder).encode()


def test_a_lease_of_a_newer_version_is_left_to_it(storage):
    storage.write(LEASE, theirs := of_a_newer_version(storage))
    with pytest.raises(NewerRecord, match=r"owner\.json: format 2 is of a newer version of ekd"):
        Lease(storage).acquire()
    assert storage.read(LEASE) == theirs


def test_a_newer_version_that_takes_over_ends_the_older_one(storage):
    with Lease(storage, **QUICK).acquire() as mine:
        storage.write(LEASE, theirs := of_a_newer_version(storage))
        with pytest.raises(TakenOver, match="format 2 is of a newer version of ekd"):
            mine.fenced.write("manifest.json", b"{}")
        assert eventually(lambda: mine.lost is not None)
    assert storage.read(LEASE) == theirs


def test_the_lease_is_renewed_while_the_driver_lives(storage):
    with Lease(storage, **QUICK).acquire():
        first = storage.read(LEASE)
        assert eventually(lambda: storage.read(LEASE) != first)


def test_a_driver_notices_that_another_has_taken_over_and_leaves_that_lease_alone(storage):
    with Lease(storage, **QUICK).acquire() as mine:
        put_holder(storage, host="elsewhere", pid=77)
        assert eventually(lambda: mine.lost is not None)
        assert mine.lost == "process 77 on elsewhere has taken this run over"
        with pytest.raises(TakenOver, match="process 77 on elsewhere"):
            mine.check()
    assert storage.exists(LEASE)


def test_a_takeover_that_was_not_noticed_yet_is_left_alone_too(storage):
    mine = Lease(storage, lease_s=60, renew_s=60).acquire()
    put_holder(storage, host="elsewhere")
    mine.release()
    assert storage.exists(LEASE)


class Failing(LocalStorage):
    """Fails as often as `failures` says, after doing what was asked if the answer is all that gets lost."""

    failures: list[Exception] = []  # noqa: RUF012 (shared on purpose: a frozen dataclass)
    answers_lost = False

    def write_if(self, key, data, *, match):
        if self.failures and self.answers_lost:
            super().write_if(key, data, match=match)
        if self.failures:
            raise self.failures.pop()
        return super().write_if(key, data, match=match)


@pytest.mark.parametrize("lost_answer", [True, False])
def test_a_store_that_is_away_for_a_while_costs_no_lease(tmp_path, lost_answer, monkeypatch):
    error = Conflict("x") if lost_answer else StorageError("x", "away", "wait")
    storage = Failing(tmp_path)
    with Lease(storage, lease_s=600, renew_s=0.1).acquire() as mine:
        monkeypatch.setattr(Failing, "answers_lost", lost_answer)
        monkeypatch.setattr(Failing, "failures", [error])
        assert eventually(lambda: not Failing.failures)
        renewed = storage.read(LEASE)
        assert eventually(lambda: storage.read(LEASE) != renewed)
        assert mine.lost is None
    assert given_up(storage)


def test_a_holder_that_cannot_renew_for_the_length_of_its_lease_counts_itself_lost(tmp_path, monkeypatch):
    mine = Lease(Failing(tmp_path), lease_s=60, renew_s=1e6).acquire()
    monkeypatch.setattr(Failing, "failures", [StorageError("x", "away", "wait")] * 3)
    mine.check()
    assert len(Failing.failures) == 3
    monkeypatch.setattr(mine, "_renewed", mine._renewed - 61)
    for _ in range(2):
        with pytest.raises(
            TakenOver,
            match=r"could not be renewed for 60 s \(.*away.*\): another driver may have it by now; this",
        ):
            mine.check()
    assert len(Failing.failures) == 2
    monkeypatch.setattr(Failing, "failures", [])  # the store is back, and nobody came: too late all the same
    with pytest.raises(TakenOver):
        mine.check()
    mine.release()


def test_a_holder_that_was_stopped_for_longer_goes_on_if_it_can_renew_at_once(storage):
    """As a laptop that was closed for a night: that the lease is still its own shows that nobody came."""
    with Lease(storage, lease_s=60, renew_s=1e6).acquire() as mine:
        mine._renewed -= 3600
        mine.check()
        assert mine.lost is None
        mine._renewed -= 3600
        put_holder(storage, host="elsewhere", pid=77)
        with pytest.raises(TakenOver, match="process 77 on elsewhere has taken this run over"):
            mine.check()


def test_every_owner_has_a_larger_number_than_those_before(storage):
    terms = []
    for _ in range(3):
        with Lease(storage).acquire() as mine:
            terms.append(mine.term)
    put_holder(storage, started="ended", term=7)
    with Lease(storage).acquire() as mine:
        assert [*terms, mine.term] == [1, 2, 3, 8]


def test_an_old_owner_and_its_workers_read_but_write_and_delete_nothing(storage):
    old = Lease(storage, renew_s=1e6).acquire()
    old.fenced.write("checkpoints/student/epoch-00001.json", b"1")
    worker = pickle.loads(pickle.dumps(old.fenced)).child("checkpoints")  # noqa: S301 (sent with a job)
    put_holder(storage, started="ended", term=old.term)  # as if its process had ended
    new = Lease(storage).acquire()
    new.fenced.write("checkpoints/student/epoch-00001.json", b"2")
    before = {key: storage.read(key) for key in storage.list()}
    changes = [
        lambda at: at.write("student/epoch-00001.json", b"1"),
        lambda at: at.write_if("student/epoch-00002.json", b"1", match=None),
        lambda at: at.delete("student/epoch-00001.json"),
        lambda at: at.delete_prefix("student"),
        lambda at: at.top.child("networks").write("a.json", b"1"),
    ]
    for change in changes:
        for at in (worker, old.fenced.child("checkpoints")):
            with pytest.raises(TakenOver, match="has taken this run over"):
                change(at)
    assert worker.read("student/epoch-00001.json") == b"2"
    assert {key: storage.read(key) for key in storage.list()} == before
    with pytest.raises(TakenOver):
        old.confirm()
    new.release()
    old.release()
    with pytest.raises(TakenOver, match="given up"):
        new.fenced.write("late", b"")


def test_a_worker_that_cannot_see_who_owns_the_run_writes_nothing(storage, monkeypatch):
    with Lease(storage).acquire() as mine:
        storage.delete(LEASE)
        with pytest.raises(TakenOver, match=r"lease, owner\.json, was deleted"):
            mine.fenced.write("a", b"")
    assert not storage.exists("a")


def take(folder: str, wins) -> None:
    try:
        Lease(LocalStorage(folder)).acquire()
    except LeaseHeld:
        wins.put(None)
    else:
        wins.put(os.getpid())
        time.sleep(600)  # until it is killed


@pytest.mark.slow
def test_of_several_that_take_a_run_at_once_exactly_one_wins(tmp_path):
    from pathlib import Path

    spawn = multiprocessing.get_context("fork")
    wins = spawn.Queue()
    processes = [spawn.Process(target=take, args=(Path(tmp_path), wins)) for _ in range(4)]
    for process in processes:
        process.start()
    winners = [winner for _ in processes if (winner := wins.get(timeout=300)) is not None]
    for process in processes:
        process.kill()
        process.join()
    assert len(winners) == 1
    holder = holder_in(LocalStorage(tmp_path).read(LEASE))
    assert holder is not None
    assert holder.has_ended


def test_a_stopped_process_is_still_a_holder(storage):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    put_holder(storage, pid=process.pid, started=lease_holder._start_of(process.pid))
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LeaseHeld):
        Lease(storage).acquire()
    process.kill()
    process.communicate()
