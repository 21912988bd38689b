import copy

import pytest
import torch
import torchvision
from members_by_definition import with_scaled_weights
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import (
    BatchEnsemble,
    average_members,
    factor_spread,
    factors,
    to_batch_ensemble,
)
from ekd_train.models.cost import count_macs
from ekd_train.models.torchvision_classifiers import torchvision_classifier


def set_factors_to_mean(ensemble: BatchEnsemble) -> None:
    """The oracle of averaging: every member becomes the mean member."""
    with torch.no_grad():
        for _, factor in factors(ensemble):
            factor.copy_(factor.mean(0, keepdim=True).expand_as(factor))


def small_wide_resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1).double()


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in module.state_dict().items()}


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


def definition_of_member(
    module: nn.Module, ensemble: BatchEnsemble, member: int, x: torch.Tensor
) -> torch.Tensor:
    """Member m by the definition: hooks scale the plain layers' inputs by r and outputs by s."""
    plain = copy.deepcopy(module)
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            wrapped = ensemble.get_submodule(f"shared.{name}")
            layer.weight = wrapped.layer.weight  # the same leaf, for gradients
            shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
            r, s = wrapped.r[member].view(shape), wrapped.s[member].view(shape)
            bias = 0
            if wrapped.member_bias is not None:  # in place of the layer's own, as in the authors' code
                layer.bias, bias = None, wrapped.member_bias[member].view(shape)
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
        expected = torch.stack([definition_of_member(plain, ensemble, m, x) for m in range(3)])
        torch.testing.assert_close(ensemble(x), expected)


def test_a_bias_per_member_replaces_the_shared_one_which_learns_no_more():
    plain = Convolutions("zeros").double()
    ensemble = to_batch_ensemble(plain, 3, member_bias=True)
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(ensemble(x), plain(x).expand(3, -1, -1))  # members start as the network was
    ensemble(x).square().sum().backward()
    head = ensemble.shared.head
    assert not head.layer.bias.any()
    assert head.layer.bias.grad is None
    assert head.member_bias.grad.abs().min() > 0


def test_factors_of_one_give_the_plain_network_exactly():
    plain = small_wide_resnet().eval()
    ensemble = to_batch_ensemble(plain, 3).eval()
    x = images(2, 1, 8, 8)
    # Of as many images as three members take: on some processors a product's sums depend on its rows.
    assert torch.equal(ensemble(x), plain(x.repeat(3, 1, 1, 1)).unflatten(0, (3, 2)))


def test_averaging_equal_members_gives_the_plain_network_exactly():
    plain = small_wide_resnet()
    averaged = average_members(to_batch_ensemble(plain, 4))
    for (key, tensor), (averaged_key, averaged_tensor) in zip(
        plain.state_dict().items(), averaged.state_dict().items(), strict=True
    ):
        assert key == averaged_key
        assert torch.equal(tensor, averaged_tensor)


def test_the_gradients_of_weights_and_factors_are_those_of_the_definition():
    plain = Convolutions("zeros").double()
    ensemble = to_batch_ensemble(plain, 2, "normal", generator=generator())
    x = images(2, 3, 24, 24)
    leaves = [p for name, p in ensemble.named_parameters() if name.endswith((".r", ".s", "layer.weight"))]
    target = torch.randn(2, 2, 5, dtype=torch.float64, generator=generator())
    gradients = torch.autograd.grad((ensemble(x) * target).sum(), leaves)
    expected = torch.zeros(())
    for member in range(2):
        expected = expected + (definition_of_member(plain, ensemble, member, x) * target[member]).sum()
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves))


def test_averaging_equals_the_ensemble_whose_factors_are_all_their_mean():
    ensemble = to_batch_ensemble(Convolutions("zeros").double(), 3, "normal", member_bias=True)
    with torch.no_grad():
        ensemble.shared.head.member_bias.normal_(generator=generator())
    averaged = average_members(ensemble)
    set_factors_to_mean(ensemble)
    with torch.no_grad():
        bias = ensemble.shared.head.member_bias
        bias.copy_(bias.mean(0, keepdim=True).expand_as(bias))
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(averaged(x).expand(3, -1, -1), ensemble(x))


def test_the_average_uses_the_product_of_the_mean_factors_not_the_mean_of_their_products():
    linear = nn.Linear(1, 1, bias=False)
    ensemble = to_batch_ensemble(linear, 2)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        ensemble.shared.layer.weight.fill_(1.0)
        ensemble.shared.r.copy_(torch.tensor([[1.0], [3.0]]))
        ensemble.shared.s.copy_(torch.tensor([[1.0], [5.0]]))
    assert average_members(ensemble).weight.item() == 2 * 3  # and not (1 + 15) / 2


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        pytest.param("wide_resnet50_2", marks=pytest.mark.slow),
        "mobilenet_v3_small",
        "shufflenet_v2_x1_0",
        "efficientnet_b0",
        "convnext_tiny",
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
def test_torchvision_classifiers_convert_and_average(name):
    torch.manual_seed(0)
    # In float64: by how much float32 rounds depends on the processor.
    plain = torchvision_classifier(name, 5, image_size=32).eval().double()
    ensemble = to_batch_ensemble(plain, 2, "normal", init_std=0.1, generator=generator())
    averaged = average_members(ensemble)
    assert type(averaged) is type(plain)
    assert shapes(averaged) == shapes(plain)
    set_factors_to_mean(ensemble)
    with torch.no_grad():
        x = images(2, 3, 32, 32).double()
        expected, actual = ensemble(x), averaged(x).expand(2, -1, -1)
    tolerance = 1e-11 * expected.std().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny"])
def test_dropout_and_stochastic_depth_train(name):
    torch.manual_seed(0)
    ensemble = to_batch_ensemble(torchvision_classifier(name, 3, image_size=32), 2).train()
    logits = ensemble(torch.rand(3, 3, 32, 32))
    logits.square().sum().backward()
    assert logits.shape == (2, 3, 3)
    assert not torch.equal(logits[0], logits[1])  # members drop different things
    assert all(factor.grad.isfinite().all() for _, factor in factors(ensemble) if factor.grad is not None)


def test_only_the_named_members_are_computed_in_their_order():
    ensemble = to_batch_ensemble(small_wide_resnet(), 4, "normal", init_std=0.2, generator=generator()).eval()
    x = images(3, 1, 8, 8)
    torch.testing.assert_close(ensemble(x, members=[2, 0]), ensemble(x)[[2, 0]])
    assert count_macs(OneMember(ensemble), (1, 8, 8)) == count_macs(average_members(ensemble), (1, 8, 8))


class OneMember(nn.Module):
    def __init__(self, ensemble: BatchEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x):
        return self.ensemble(x, members=[1])


@pytest.mark.parametrize("members", [[], [3], [-1], [0, 7]])
def test_a_member_that_does_not_exist_is_an_error(members):
    ensemble = to_batch_ensemble(nn.Linear(2, 2), 3)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        ensemble(torch.ones(1, 2), members=members)


def test_members_share_batch_statistics_over_the_whole_tiled_batch():
    plain = small_wide_resnet().train()
    ensemble = to_batch_ensemble(plain, 3).train()
    x = images(4, 1, 8, 8)
    ensemble(x)
    plain(x.repeat(3, 1, 1, 1))
    for (_, expected), (_, actual) in zip(plain.named_buffers(), ensemble.named_buffers(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_original_is_left_alone():
    plain = small_wide_resnet()
    before = copy.deepcopy(plain.state_dict())
    ensemble = to_batch_ensemble(plain, 2, "random_sign")
    average_members(ensemble)
    ensemble(images(2, 1, 8, 8))
    assert shapes(plain) == {key: tensor.shape for key, tensor in before.items()}
    assert all(torch.equal(tensor, before[key]) for key, tensor in plain.state_dict().items())
    assert len(list(factors(ensemble))) == 2 * 10  # 7 convolutions, 2 shortcuts, 1 head


def test_a_module_used_twice_stays_one_module():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    plain = nn.Sequential(shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(64, 2)).double()
    ensemble = to_batch_ensemble(plain, 2, "normal", generator=generator())
    assert ensemble.shared[0] is ensemble.shared[2]
    averaged = average_members(ensemble)
    assert averaged[0] is averaged[2]
    assert shapes(averaged) == shapes(plain)
    set_factors_to_mean(ensemble)
    x = images(2, 4, 4, 4)
    torch.testing.assert_close(averaged(x).expand(2, -1, -1), ensemble(x))


def test_a_deep_copy_is_independent():
    ensemble = to_batch_ensemble(small_wide_resnet(), 3, "normal", generator=generator()).eval()
    other = copy.deepcopy(ensemble)
    x = images(2, 1, 8, 8)
    expected = ensemble(x)
    other(x, members=[0])  # must not change what the first one computes
    torch.testing.assert_close(ensemble.shared(x.repeat(3, 1, 1, 1)).unflatten(0, (3, 2)), expected)
    torch.testing.assert_close(other(x), expected)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weight is computed from its parameter."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class EveryLayer(nn.Module):
    """Every kind of layer that has factors, and parameters that members share; with or without BatchNorm."""

    def __init__(self, norm: nn.Module, batch_first: bool = True) -> None:
        super().__init__()
        self.stem = StandardisedConv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.norm = norm
        self.tokens = nn.Conv1d(6, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, 8))
        self.layer_scale = nn.Parameter(torch.randn(8))
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=batch_first)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.volume = nn.Conv3d(2, 2, (1, 2, 2))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.up(self.stem(x)))
        x = self.tokens(x.flatten(2)).transpose(1, 2) * self.layer_scale + self.position
        queries, keys, values = x, x[..., :6], x[..., :5]
        if not self.cross.batch_first:
            queries, keys, values = (each.transpose(0, 1) for each in (queries, keys, values))
        attended, _ = self.cross(queries, keys, values, need_weights=False)
        x = x + (attended if self.cross.batch_first else attended.transpose(0, 1))
        x = self.encoder(x)
        volume = self.volume(x.view(-1, 2, 2, 4, 8)).flatten(1)
        return self.head(x.mean(1) + volume.mean(1, keepdim=True))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_kind_of_layer_computes_its_members_and_averages(norm, batch_first):
    torch.manual_seed(0)
    plain = EveryLayer(norm, batch_first).double().eval()
    ensemble = to_batch_ensemble(plain, 3, "normal", generator=generator()).eval()
    averaged = average_members(ensemble)
    assert shapes(averaged) == shapes(plain)
    x = images(2, 3, 4, 4)
    with torch.no_grad():  # where torch has a fused encoder layer
        for member, computed in enumerate([*ensemble(x), averaged(x)]):
            expected = with_scaled_weights(plain, ensemble, member if member < 3 else None)(x)
            torch.testing.assert_close(computed, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ensemble(x, members=[2, 0]), ensemble(x)[[2, 0]])
    ensemble.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in ensemble.parameters())


def test_an_attention_takes_masks_of_every_members_rows():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(5)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.norm(x)
            y, weights = self.attention(
                x, x, x, key_padding_mask=x[..., 0],
                attn_mask=(x @ x.transpose(1, 2)).repeat_interleave(2, 0),
            )  # fmt: skip
            return y.mean(1) + weights.mean((1, 2))[:, None]

    torch.manual_seed(0)
    plain = Masked().double().eval()
    ensemble = to_batch_ensemble(plain, 2, "normal", generator=generator()).eval()
    x = images(3, 5, 4)
    expected = [with_scaled_weights(plain, ensemble, member)(x) for member in range(2)]
    torch.testing.assert_close(ensemble(x), torch.stack(expected))


def test_a_checkpointed_network_is_not_computed_with_the_wrong_members():
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    ensemble = to_batch_ensemble(Checkpointed(nn.Linear(4, 4), nn.Linear(4, 2)), 2)
    with pytest.raises(RuntimeError, match="0: called outside of its network's forward"):
        ensemble(torch.rand(3, 4)).sum().backward()


class OnATable(nn.Module):
    """A layer that is called on what is no batch, as where positions are computed."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.positions = nn.Linear(2, 4)

    def forward(self, x):
        return self.norm(x) + self.positions(torch.ones(5, 2)).mean(0)


def test_a_layer_that_is_not_called_on_the_batch_needs_a_network_without_batch_statistics():
    assert to_batch_ensemble(OnATable(nn.LayerNorm(4)), 2)(torch.rand(3, 4)).shape == (2, 3, 4)
    with pytest.raises(TypeError, match=r"module 'positions': Linear: called on 5 rows .* 2 x 3 images"):
        to_batch_ensemble(OnATable(nn.BatchNorm1d(4)), 2)(torch.rand(3, 4))


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


@pytest.mark.parametrize(
    ("module", "refusal"),
    [
        (nn.LSTM(4, 4), "'body.odd': LSTM: its weights are of a kind"),
        (nn.Bilinear(4, 4, 4), "'body.odd': Bilinear: its weights are of a kind"),
        (nn.Embedding(3, 4), "a network without convolutions, Linears and attention"),
        (
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
            "'body.odd': ParametrizedConv2d: its weight is computed",
        ),
        (tied(), "'body.odd.0': Linear: another module has the same weight"),
        (to_batch_ensemble(nn.Linear(4, 4), 2), "'body.odd.shared': BatchEnsembleLinear: its weights"),
    ],
)
def test_modules_that_cannot_have_factors_are_refused_by_name(module, refusal):
    with pytest.raises(TypeError) as error:
        to_batch_ensemble(nn.ModuleDict({"body": nn.ModuleDict({"odd": module})}), 2)
    assert refusal in str(error.value)


def test_torchvisions_vision_transformer_converts_and_averages():
    torch.manual_seed(0)
    plain = torchvision.models.VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=3).double().eval()
    with torch.no_grad():
        plain.heads.head.weight.normal_()
    ensemble = to_batch_ensemble(plain, 2, "normal", generator=generator()).eval()
    x = images(2, 3, 16, 16)
    averaged = average_members(ensemble)
    assert shapes(averaged) == shapes(plain)
    for member, computed in zip((0, 1, None), [*ensemble(x), averaged(x)], strict=True):
        torch.testing.assert_close(computed, with_scaled_weights(plain, ensemble, member)(x))


def test_factors_start_as_asked():
    def spread(init):
        return factor_spread(to_batch_ensemble(nn.Linear(400, 300), 4, init, generator=generator()))

    ones = dict.fromkeys(("min", "max", "mean"), 1.0) | {"std": 0.0}
    assert spread("ones") == {f"{kind}_{name}": value for kind in "rs" for name, value in ones.items()}
    assert spread("random_sign")["r_min"] == -1
    assert spread("random_sign")["s_max"] == 1
    assert abs(spread("random_sign")["r_mean"]) < 0.1
    assert spread("normal")["r_mean"] == pytest.approx(1, abs=0.05)
    assert spread("normal")["s_std"] == pytest.approx(0.5, abs=0.05)


def test_the_same_generator_gives_the_same_factors():
    first, second = (
        to_batch_ensemble(small_wide_resnet(), 2, "normal", generator=generator()) for _ in range(2)
    )
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(factors(first), factors(second), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_members": 0}, "num_members must be at least 1"),
        ({"num_members": 2, "init": "zeros"}, "ones, normal, random_sign"),
        ({"num_members": 2, "member_bias": True}, "member_bias needs a last Linear"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_batch_ensemble(nn.Conv2d(1, 1, 1), **arguments)


@pytest.mark.parametrize("batch", [4, 64], ids=["activations are scaled", "weights are formed"])
def test_in_a_bfloat16_step_no_map_is_float32(batch):
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    )
    ensemble, seen = to_batch_ensemble(plain, 4), []
    for module in ensemble.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = ensemble(torch.rand(batch, 16, 7, 7))
    assert logits.dtype == torch.bfloat16
    assert {torch.bfloat16} == set(seen)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in ensemble.parameters())
