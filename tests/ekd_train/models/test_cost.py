import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.cost import count_macs, count_parameters


def test_macs_are_those_counted_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8*3*9 for each of 10*10 pixels
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False),  # 8*2*9 for each of 4*4
        nn.Flatten(),
        nn.Linear(128, 5),  # 128*5
    )
    assert count_macs(network, (3, 10, 10)) == 8 * 3 * 9 * 100 + 8 * 2 * 9 * 16 + 128 * 5


def test_macs_and_parameters_of_a_wide_residual_network_are_those_counted_by_hand():
    model = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1)
    convolutions = {  # (weights, pixels a side of the output) on 8-pixel images
        "stem": (1 * 16 * 9, 8),
        "group1": (2 * 16 * 16 * 9, 8),
        "group2": (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32, 4),
        "group3": (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64, 2),
    }
    macs = sum(weights * side**2 for weights, side in convolutions.values())
    assert count_macs(model, (1, 8, 8)) == macs + 64 * 10
    norms = 2 * (16 + 16 + 16 + 32 + 32 + 64 + 64)
    assert count_parameters(model) == sum(w for w, _ in convolutions.values()) + norms + 64 * 10 + 10


def test_counting_changes_neither_mode_nor_statistics():
    model = build_model("wide_resnet", depth=10, num_classes=10, in_channels=1).train()
    model.network.group1.eval()
    count_macs(model, (1, 8, 8))
    assert model.training
    assert not model.network.group1.training
    assert torch.equal(model.network.norm.running_mean, torch.zeros(64))


def test_a_parameter_used_twice_counts_once():
    layer = nn.Linear(3, 3, bias=False)
    assert count_parameters(nn.Sequential(layer, layer)) == 9
