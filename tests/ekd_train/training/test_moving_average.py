"""The moving average of a network: torch's, but for what a GPU would be waited for."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ekd_train.training.moving_average import MovingAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def test_it_is_torchs_bit_for_bit_and_loads_what_that_stored():
    trained = network()
    theirs = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours, continued = MovingAverage(trained, 0.9), MovingAverage(trained, 0.9)
    for step in range(5):
        with torch.no_grad():
            trained[0].weight.add_(torch.randn(5, 4))
        trained(torch.randn(6, 4))  # moves the statistics, and counts
        theirs.update_parameters(trained)
        ours.update(trained)
        if step == 2:
            continued.load_state_dict(theirs.state_dict())
        if step > 2:
            continued.update(trained)
    for made in (ours, continued):
        assert made.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            assert torch.equal(made.state_dict()[name], value), name


def test_its_counter_stays_with_the_host():
    with torch.device("meta"):
        average = MovingAverage(network(), 0.9)
    assert average.module[0].weight.is_meta
    assert average.n_averaged.device.type == "cpu"
    average.update(average.module)
    assert int(average.n_averaged) == 1
