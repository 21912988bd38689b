"""Pooling: the same values as means and slices, and gradients that lie as the maps do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ekd_train.models import build_model
from ekd_train.models.residual_parts import every_nth_pixel, global_average
from ekd_train.models.stages import stages


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 8), (1, 1)])
def test_pooling_is_a_mean_and_a_slice(size):
    maps = torch.randn(3, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(global_average(maps), maps.mean((2, 3)), rtol=1e-12, atol=1e-12)
    assert torch.equal(every_nth_pixel(maps, 2), maps[:, :, ::2, ::2])
    assert torch.equal(every_nth_pixel(maps, 1), maps)


def stage_by_stage(network):
    """As branches and features go through it."""
    return nn.Sequential(stages(network))


class ReluLayouts(TorchDispatchMode):
    """Notes whether the gradient of each ReLU lay channels last, as its output."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.threshold_backward.default:
            self.seen += [[t.is_contiguous(memory_format=torch.channels_last) for t in args[:2]]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("through", [lambda network: network, stage_by_stage])
@pytest.mark.parametrize(("name", "depth"), [("resnet", 8), ("wide_resnet", 10)])
def test_gradients_of_the_small_networks_lie_channels_last_everywhere(name, depth, through):
    network = build_model(
        name=name, depth=depth, num_classes=10, in_channels=3, mean=[0.5] * 3, std=[0.2] * 3
    )
    network.to(memory_format=torch.channels_last)
    with ReluLayouts() as layouts:
        F.cross_entropy(through(network)(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
    assert len(layouts.seen) == 7
    assert all(all(pair) for pair in layouts.seen)
