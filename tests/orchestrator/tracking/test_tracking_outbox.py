import os
import subprocess
from contextlib import suppress

import pytest

from orchestrator.tracking.outbox import Outbox, Outcome
from orchestrator.tracking.records import Artifact, Metrics, Params, Tags, from_line, to_line


class FakeStore:
    """Takes deliveries while it is up; refuses runs named in `refused`."""

    def __init__(self):
        self.up = True
        self.calls = []
        self.tries = 0
        self.refused = set()

    def deliver(self, records):
        self.tries += 1
        if not self.up:
            return Outcome.UNREACHABLE
        if records[0].run in self.refused:
            return Outcome.REFUSED
        self.calls.append(list(records))
        return Outcome.DELIVERED

    @property
    def records(self):
        return [record for call in self.calls for record in call]


class FakeClock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def metrics(step, run="r", names=("loss",)):
    return Metrics(run, dict.fromkeys(names, 0.5), step, timestamp_ms=1000 + step)


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def outbox(store, clock, tmp_path):
    return Outbox(store.deliver, tmp_path, clock=clock)


def test_metrics_wait_and_go_together_in_one_call(outbox, store, clock):
    for step in range(3):
        outbox.put(metrics(step))
    assert (store.calls, outbox.pending) == ([], 3)
    clock.now_s = 5.0
    outbox.put(metrics(3))
    assert store.calls == [[metrics(step) for step in range(4)]]
    assert outbox.pending == 0


def test_many_metrics_go_at_once(outbox, store):
    names = [f"m{number}" for number in range(250)]
    outbox.put(metrics(0, names=names))
    assert store.calls == []
    outbox.put(metrics(1, names=names))
    assert len(store.records) == 2


def test_a_call_holds_one_run_and_at_most_a_thousand_values(store, tmp_path):
    outbox = Outbox(store.deliver, tmp_path, flush_values=10**9, clock=lambda: 0.0)
    names = [f"m{number}" for number in range(400)]
    for step in range(3):
        outbox.put(metrics(step, "a", names))
        outbox.put(metrics(step, "b", names))
    outbox.flush()
    for call in store.calls:
        assert len({record.run for record in call}) == 1
        assert sum(len(record.values) for record in call) <= 1000
    assert [record.step for record in store.records if record.run == "a"] == [0, 1, 2]
    assert [record.step for record in store.records if record.run == "b"] == [0, 1, 2]


def test_other_records_go_at_once_behind_the_metrics_before_them(outbox, store):
    outbox.put(metrics(0))
    outbox.put(Params("r", {"seed": "1"}))
    assert store.calls == [[metrics(0)], [Params("r", {"seed": "1"})]]


def test_nothing_is_lost_or_doubled_by_an_outage(outbox, store, clock):
    store.up = False
    for step in range(5):
        outbox.put(metrics(step))
    assert not outbox.flush()
    assert outbox.pending == 5
    store.up = True
    clock.now_s = 10.0
    assert outbox.flush()
    assert [record.step for record in store.records] == [0, 1, 2, 3, 4]
    assert not outbox.journal.exists()


def test_an_unreachable_store_is_tried_ever_more_rarely(outbox, store, clock):
    store.up = False
    for second in range(600):
        clock.now_s = float(second)
        outbox.put(Tags("r", {"second": str(second)}))
    assert store.tries <= 10  # 0, 5, 15, 35, 75, 155, 275, 395, 515
    assert outbox.offline


def test_force_tries_although_the_delay_is_not_over(outbox, store):
    store.up = False
    outbox.put(Tags("r", {}))
    store.up = True
    assert not outbox.flush()
    assert outbox.flush(force=True)
    assert not outbox.offline


def test_a_new_process_delivers_what_the_killed_one_had_only_put(outbox, store, tmp_path):
    outbox.put(metrics(7))
    after_kill = Outbox(store.deliver, tmp_path)
    assert after_kill.pending == 1
    after_kill.flush()
    assert store.records == [metrics(7)]


def test_a_line_cut_short_by_a_kill_costs_only_itself(outbox, store, tmp_path, caplog):
    outbox.put(metrics(1))
    with outbox.journal.open("a") as journal:
        journal.write(to_line(metrics(2))[:20])
    after_kill = Outbox(store.deliver, tmp_path)
    after_kill.put(metrics(3))
    Outbox(store.deliver, tmp_path).flush(force=True)
    assert [record.step for record in store.records] == [1, 3]
    assert "left out" in caplog.text


def test_a_refused_record_is_set_aside_and_holds_up_nothing(outbox, store, tmp_path):
    store.refused = {"bad"}
    outbox.put(Tags("bad", {"a": "b"}))
    outbox.put(Tags("good", {"a": "b"}))
    assert store.records == [Tags("good", {"a": "b"})]
    assert from_line((tmp_path / "refused.jsonl").read_text()) == Tags("bad", {"a": "b"})


def test_the_journal_keeps_only_what_is_undelivered(outbox, store):
    store.up = False
    outbox.put(Tags("first", {}))
    outbox.put(Tags("second", {}))

    def first_then_down(records):
        store.up = not store.calls
        return FakeStore.deliver(store, records)

    outbox._deliver = first_then_down
    outbox.flush(force=True)
    assert [from_line(line) for line in outbox.journal.read_text().splitlines()] == [Tags("second", {})]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_nothing_and_the_journal_is_whole_again_when_there_is_room(
    store, clock, small_disk, caplog
):
    outbox = Outbox(store.deliver, small_disk, clock=clock)
    store.up = False
    outbox.put(metrics(0))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1000))
    many = [
        metrics(step, names=tuple(map(str, range(200)))) for step in range(1, 6)
    ]  # more than its last block
    for record in many:
        outbox.put(record)
    assert "in memory alone" in caplog.text
    assert not outbox.journalled
    filler.unlink()
    outbox.flush(force=True)
    assert outbox.journalled
    assert [from_line(line) for line in outbox.journal.read_text().splitlines()] == [metrics(0), *many]
    store.up = True
    assert outbox.flush(force=True)
    assert store.records == [metrics(0), *many]


def test_an_artifact_is_kept_until_it_is_delivered(outbox, store, tmp_path):
    file = tmp_path / "artifacts" / "1" / "card.md"
    file.parent.mkdir(parents=True)
    file.write_text("text")
    store.up = False
    outbox.put(Artifact("r", "card.md", str(file)))
    assert file.exists()
    store.up = True
    outbox.flush(force=True)
    assert not file.parent.exists()


def test_an_artifact_store_that_is_down_holds_up_no_metrics(outbox, store, clock, tmp_path):
    def no_artifacts(records):
        store.up = not isinstance(records[0], Artifact)
        return FakeStore.deliver(store, records)

    outbox._deliver = no_artifacts
    outbox.put(Artifact("r", "a.md", str(tmp_path / "a.md")))
    clock.now_s = 1.0
    outbox.put(Tags("r", {"a": "b"}))
    assert store.records == [Tags("r", {"a": "b"})]
    assert (outbox.pending, outbox.offline) == (1, False)


@pytest.mark.parametrize(
    "record",
    [
        Metrics("r", {"loss": float("nan"), "top": float("inf")}, 3, 4),
        Params("r", {"text": "two\nlines and a ‘quote’"}),
    ],
)
def test_a_record_survives_its_line(record):
    assert repr(from_line(to_line(record))) == repr(record)


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"kind": "Nothing"}', '{"kind": "Tags", "x": 1}'])
def test_what_is_not_a_record_is_a_value_error(line):
    with pytest.raises(ValueError, match=r".*"):
        from_line(line)
