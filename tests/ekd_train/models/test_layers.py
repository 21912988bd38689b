"""The order of a network's layers, for their rates and for freezing."""

import torch
from torchvision.models import vit_b_16

from ekd_train.models.layers import depths, freeze
from ekd_train.models.papa import Papa


def test_the_last_norm_of_a_transformer_comes_after_its_blocks_and_the_positions_before_them():
    with torch.device("meta"):
        after = depths(vit_b_16())
    assert after["heads.head.weight"] == 0
    assert after["encoder.ln.weight"] == after["encoder.ln.bias"] == 1
    assert [after[f"encoder.layers.encoder_layer_{n}.mlp.0.weight"] for n in (11, 0)] == [2, 13]
    assert after["encoder.pos_embedding"] == 14
    assert after["class_token"] == 16


def stack() -> torch.nn.Sequential:
    return torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))


def test_networks_that_are_trained_side_by_side_have_the_layers_of_one():
    after = depths(Papa([stack() for _ in range(3)]))
    assert [after[f"networks.{network}.{layer}.weight"] for network in range(3) for layer in range(3)] == [
        *(2, 1, 0),
        *(2, 1, 0),
        *(2, 1, 0),
    ]


def test_of_networks_side_by_side_the_same_layers_are_frozen():
    for part, learning in (("backbone", "2"), ("2", "01")):
        papa = Papa([stack() for _ in range(2)])
        freeze(papa, [part])
        found = {name for name, parameter in papa.named_parameters() if parameter.requires_grad}
        assert found == {
            f"networks.{network}.{layer}.{of}"
            for network in range(2)
            for layer in learning
            for of in ("weight", "bias")
        }
