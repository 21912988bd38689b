"""Every way of computing a step gives the same training, to the rounding that its name promises."""

import pytest
import torch
from cutting_off import CutOff, CutsOff
from training_runs import (
    MemoryStore,
    checkpoints_in,
    made_up_data,
    same_tensors,
    student_run,
    untrained_teachers,
)

from ekd_train.loop import train
from ekd_train.reporter import Silent

WAYS = {
    "default": {},
    "contiguous": {"memory_format": "contiguous"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 contiguous": {"memory_format": "contiguous", "precision": "bfloat16"},
}


def trained(way, store=None, reporter=None, epochs=4):
    run = student_run(perturbation="tdiv_sdiv", speed=way, epochs=epochs)
    data = made_up_data()
    return train(
        run,
        data,
        checkpoints=checkpoints_in(store or MemoryStore(), run),
        reporter=reporter or Silent(),
        teachers=untrained_teachers(data),
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_cut_off_run_ends_with_the_same_bits_whatever_the_way(way):
    whole, store = trained(way), MemoryStore()
    with pytest.raises(CutOff):
        trained(way, store, CutsOff(3))
    assert same_tensors(whole.network.state_dict(), trained(way, store).network.state_dict())


@pytest.mark.parametrize(("way", "tolerance"), [("contiguous", 1e-3), ("bfloat16", 0.05)])
def test_the_first_epoch_has_the_same_loss_to_rounding(way, tolerance):
    usual, other = (trained(WAYS[name], epochs=1).history[0] for name in ("default", way))
    assert other["train/loss"] == pytest.approx(usual["train/loss"], rel=tolerance)


def test_weights_and_their_momenta_stay_float32_under_bfloat16():
    store = MemoryStore()
    trained(WAYS["bfloat16"], store)
    run = student_run(perturbation="tdiv_sdiv", speed=WAYS["bfloat16"])
    tensors = checkpoints_in(store, run).newest().tensors
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}
