import copy

import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import (
    BatchEnsemble,
    average_members,
    factors,
    to_batch_ensemble,
)


def set_factors_to_mean(ensemble: BatchEnsemble) -> None:
    """The oracle of averaging: every member becomes the mean member."""
    with torch.no_grad():
        for _, factor in factors(ensemble):
            factor.copy_(factor.mean(0, keepdim=True).expand_as(factor))


def small_wide_resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1).double()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(2)


class Convolutions(nn.Module):
    """Grouped and depthwise convolutions with bias in every padding mode, and Linears at two ranks."""

    def __init__(self, padding_mode: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode=padding_mode)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, groups=4, padding=1, padding_mode=padding_mode)
        self.depthwise = nn.Conv2d(
            12, 12, 3, dilation=2, groups=12, padding="same", padding_mode=padding_mode
        )
        self.norm = nn.GroupNorm(3, 12)
        self.tokens = nn.Linear(12, 10)
        self.layer_norm = nn.LayerNorm(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = self.norm(self.depthwise(self.grouped(self.first(x)).tanh())).tanh()
        x = self.layer_norm(self.tokens(x.permute(0, 2, 3, 1)))
        return self.head(x.mean((1, 2)))


def naive_member(module: nn.Module, ensemble: BatchEnsemble, member: int, x: torch.Tensor) -> torch.Tensor:
    """Member m by the definition: hooks scale the plain layers' inputs by r and outputs by s."""
    plain = copy.deepcopy(module)
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            wrapped = ensemble.get_submodule(f"shared.{name}")
            shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
            r, s = wrapped.r[member].view(shape), wrapped.s[member].view(shape)
            bias = 0 if wrapped.member_bias is None else wrapped.member_bias[member].view(shape)
            layer.register_forward_pre_hook(lambda _, args, r=r: (args[0] * r,))
            layer.register_forward_hook(lambda _, args, y, s=s, bias=bias: y * s + bias)
    return plain(x)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_each_member_computes_s_times_the_layer_of_r_times_x(padding_mode):
    plain = Convolutions(padding_mode).double()
    ensemble = to_batch_ensemble(plain, 3, "normal", member_bias=True, generator=generator())
    with torch.no_grad():
        ensemble.shared.head.member_bias.normal_(generator=generator())
    for size in (8, 24):  # small maps scale activations, large ones weights
        x = images(2, 3, size, size)
        expected = torch.stack([naive_member(plain, ensemble, m, x) for m in range(3)])
        torch.testing.assert_close(ensemble(x), expected)


def test_factors_of_one_give_the_plain_network_exactly():
    plain = small_wide_resnet().eval()
    ensemble = to_batch_ensemble(plain, 3).eval()
    x = images(2, 1, 8, 8)
    assert torch.equal(ensemble(x), plain(x).expand(3, -1, -1))


def test_averaging_equal_members_gives_the_plain_network_exactly():
    plain = small_wide_resnet()
    averaged = average_members(to_batch_ensemble(plain, 4))
    for (key, tensor), (averaged_key, averaged_tensor) in zip(
        plain.state_dict().items(), averaged.state_dict().items(), strict=True
    ):
        assert key == averaged_key
        assert torch.equal(tensor, averaged_tensor)
