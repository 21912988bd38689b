"""When a checkpoint is made in the midst of an epoch."""

import torch
from training_runs import (
    MemoryStore,
    checkpoints_in,
    label_run,
    made_up_data,
    same_tensors,
    with_training,
)

from ekd_train.distributed import Workers
from ekd_train.persistence.identity import identity_of
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from ekd_train.training.within_epoch import Interruptions


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Announced:
    """A notice that is given from its n-th question on."""

    def __init__(self, questions: int) -> None:
        self.questions, self.left = questions, 0

    def given(self) -> bool:
        self.questions -= 1
        return self.questions <= 0

    def leave(self) -> None:
        self.left += 1


def test_a_checkpoint_is_due_when_the_minutes_have_passed_since_the_last():
    clock = Clock()
    interruptions = Interruptions(Workers(), 2.0, clock)
    answers = []
    for _ in range(5):
        clock.now += 50
        answers.append(interruptions.due())
        if answers[-1]:
            interruptions.saved()
    assert answers == [False, False, True, False, False]


def test_alone_nothing_is_asked_of_the_device_that_trains():
    due = Interruptions(Workers(device=torch.device("meta")), every_minutes=1e-9)
    assert [due.due() for _ in range(3)] == [True, True, True]


def test_without_minutes_or_notice_nobody_asks():
    assert not any(Interruptions(Workers(), None).due() for _ in range(100))


def test_an_announcement_counts_once():
    interruptions = Interruptions(Workers(notice=Announced(3)), None)
    assert [interruptions.due() for _ in range(5)] == [False, False, True, False, False]
    assert interruptions.announced


def test_a_spot_notice_in_the_midst_of_an_epoch_is_checkpointed_at_once_and_continued_exactly():
    run, store, data = label_run(epochs=2), MemoryStore(), made_up_data()
    notice = Announced(2)

    def trained(store, workers):
        return train(run, data, checkpoints=checkpoints_in(store, run), reporter=Silent(), workers=workers)

    uninterrupted = trained(store, Workers(notice=notice))
    assert notice.left >= 1
    key = "checkpoints/control/epoch-00000_0000002.json"
    cut = next(state for state in store.states if key in state)
    resumed = trained(MemoryStore(cut), Workers())
    assert same_tensors(uninterrupted.network.state_dict(), resumed.network.state_dict())
    assert uninterrupted.history == resumed.history


def test_the_minutes_change_no_identity():
    run = label_run()
    assert identity_of(run) == identity_of(with_training(run, checkpoint_every_minutes=5.0))
    assert identity_of(run) != identity_of(with_training(run, ema=0.9))
