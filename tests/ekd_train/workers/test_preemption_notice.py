"""A run that is told that a machine is about to be taken checkpoints at once and leaves."""

import pytest
import training_runs
from training_runs import MemoryStore, SlowStore

from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent


class Left(Exception):
    """In place of the end of the process."""


class NoticeAfter:
    """Word that comes after that many steps of the first epoch: it is looked for after each but the last."""

    def __init__(self, steps, *, mine=True):
        self.steps_left, self.mine, self.asked = steps, mine, 0
        self.look = lambda: None

    def given(self):
        self.asked += 1
        return self.asked >= self.steps_left

    def leave(self):
        self.look()
        if self.mine:
            raise Left


def trained(store, notice, epochs=6):
    run = training_runs.label_run(epochs=epochs, checkpoint_every=epochs)
    checkpoints = Checkpoints(store, "checkpoints/run", "identity")
    return train(
        run,
        training_runs.made_up_data(),
        checkpoints=checkpoints,
        reporter=Silent(),
        workers=Workers(notice=notice),
    )


def test_on_notice_a_worker_checkpoints_the_step_that_it_is_at_and_leaves():
    store = MemoryStore()
    with pytest.raises(Left):
        trained(store, NoticeAfter(steps=2))
    newest = Checkpoints(store, "checkpoints/run", "identity").newest()
    assert (newest.epoch, newest.step) == (0, 2)


def test_its_checkpoint_is_stored_before_it_leaves_however_slow_the_store_is():
    store, notice, stored = SlowStore(), NoticeAfter(steps=2), []
    notice.look = lambda: stored.extend(store.objects)
    with pytest.raises(Left):
        trained(store, notice)
    assert "checkpoints/run/epoch-00000_0000002.json" in stored


def test_what_is_continued_after_a_notice_ends_with_the_same_bits():
    store = MemoryStore()
    with pytest.raises(Left):
        trained(store, NoticeAfter(steps=2))
    continued, whole = trained(store, None), trained(MemoryStore(), None)
    assert continued.best == whole.best
    for name, tensor in whole.network.state_dict().items():
        assert (continued.network.state_dict()[name] == tensor).all()


def test_a_worker_whose_machine_stays_trains_on_and_checkpoints_every_epoch():
    store = MemoryStore()
    assert len(trained(store, NoticeAfter(steps=2, mine=False)).history) == 6
    written = {key for state in store.states for key in state}
    assert {f"checkpoints/run/epoch-{epoch:05d}.json" for epoch in range(1, 7)} <= written


def test_without_notices_nobody_is_asked():
    assert Workers().preemption_announced() is False
