"""LoRA members, against plain networks whose weights were changed in their state dicts."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.lora import head_of, own_parameters, to_lora
from ekd_train.settings import Training
from ekd_train.training.optimiser import build_optimiser


def timm_vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=2, embed_dim=24)


def packed_attention() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=3)


def convolutions() -> nn.Module:
    return timm.create_model("mobilenetv4_conv_small_035", num_classes=3)


def members_of(plain: nn.Module, rank: int = 2) -> nn.Module:
    """Three members, none of whose own values are zero, in float64."""
    members = to_lora(plain.double().eval(), 3, rank).eval()
    with torch.no_grad():
        for _, parameter in own_parameters(members):
            parameter.normal_(0, 0.1)
    return members


def weights_of_member(plain: nn.Module, members: nn.Module, member: int) -> dict[str, torch.Tensor]:
    """The plain network's state dict with `w + B A`, and of its head `w + D`, by their names."""
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    own = {
        name.removeprefix("shared.").replace(".layer.out_proj", ".out_proj"): value.detach()[member]
        for name, value in own_parameters(members)
    }
    for name, value in own.items():
        if name.endswith("_b"):
            weight = state[name.removesuffix("_b")]
            a = own[f"{name.removesuffix('_b')}_a"]
            weight += torch.einsum("or,ri->oi", value, a).reshape(weight.shape)
        elif name.endswith("_own"):
            state[name.removesuffix("_own")] += value
    return state


@pytest.mark.parametrize("network", [timm_vit, packed_attention, convolutions])
def test_a_member_is_the_plain_network_of_its_weights_and_the_average_that_of_their_mean(network):
    torch.manual_seed(0)
    plain = network().double().eval()
    members = members_of(plain)
    size = 16 if network is packed_attention else 32
    images = torch.rand(2, 3, size, size, dtype=torch.float64)
    states = [weights_of_member(plain, members, member) for member in range(3)]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in plain.state_dict().items()
    }
    averaged = members.averaged()
    assert type(averaged) is type(plain)
    assert list(averaged.state_dict()) == list(plain.state_dict())
    by_hand = copy.deepcopy(plain)
    with torch.no_grad():
        for computed, state in zip([*members(images), averaged(images)], [*states, mean], strict=True):
            by_hand.load_state_dict(state)
            expected = by_hand(images)
            assert (computed - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_members_start_as_the_plain_network_and_so_does_the_average():
    torch.manual_seed(0)
    plain = timm_vit().eval()
    members = to_lora(plain, 2, 4, "normal").eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(members(images), plain(images).expand(2, -1, -1))
    for name, value in members.averaged().state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])


def test_what_is_drawn_for_a_member_is_its_own_and_of_the_size_that_was_asked_for():
    torch.manual_seed(0)
    for init, std in (("normal", 100**-0.5), ("xavier", (2 / (50 + 100)) ** 0.5)):
        members = to_lora(nn.Sequential(nn.Linear(100, 80), nn.Linear(80, 3)), 2, 50, init)
        a = members.shared[0].weight_a
        assert a.shape == (2, 50, 100)
        assert a.std().item() == pytest.approx(std, rel=0.05)
        assert not torch.equal(a[0], a[1])
        assert not members.shared[0].weight_b.any()


def test_of_a_frozen_base_only_what_is_a_members_own_learns():
    torch.manual_seed(0)
    members = to_lora(build_model("resnet", depth=8, num_classes=3, in_channels=1), 2, 2, train_base=False)
    own = {name for name, _ in own_parameters(members)}
    assert {name for name, parameter in members.named_parameters() if parameter.requires_grad} == own
    before = {name: value.clone() for name, value in members.named_parameters()}
    optimiser = build_optimiser(members, Training(learning_rate=0.1, weight_decay=0), None)
    for _ in range(2):  # in the first step B is 0, and no gradient reaches A
        optimiser.zero_grad()
        members(torch.rand(4, 1, 8, 8)).square().mean().backward()
        optimiser.step()
    changed = {name for name, value in members.named_parameters() if not torch.equal(value, before[name])}
    assert changed == own


@pytest.mark.parametrize(
    ("options", "said"), [({"rank": 0}, "rank must"), ({"rank": 1, "init": "x"}, "init")]
)
def test_bad_arguments_say_what_is_wrong(options, said):
    with pytest.raises(ValueError, match=said):
        to_lora(nn.Linear(2, 2), 2, **options)


class HeadFirst(nn.Module):
    """Its head is defined before what it is applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.norm = nn.BatchNorm2d(2)
        self.mix = nn.Linear(2 * 4 * 4, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.norm(images).flatten(1)).relu())


def test_the_head_of_its_own_is_what_makes_the_logits_wherever_it_is_defined():
    plain = HeadFirst()
    assert head_of(plain, (2, 4, 4)) == "head"
    members = to_lora(plain, 2, 1, head="head")
    assert {name for name, _ in own_parameters(members) if name.endswith("_own")} == {
        "shared.head.weight_own",
        "shared.head.bias_own",
    }
    assert head_of(build_model("squeezenet1_1", num_classes=3, image_size=64), (3, 64, 64)).endswith(
        "classifier.1"
    )


def test_statistics_of_a_frozen_base_stay_too():
    torch.manual_seed(0)
    plain = HeadFirst()
    members = to_lora(plain, 2, 1, head="head", train_base=False).train()
    logits = members(torch.randn(8, 2, 4, 4) + 3)
    logits.sum().backward()
    average = members.averaged()
    for name, value in plain.named_buffers():
        assert torch.equal(average.get_buffer(name), value), name
    assert members.training
    free = to_lora(plain, 2, 1, head="head").train()
    free(torch.randn(8, 2, 4, 4) + 3)
    assert not torch.equal(free.averaged().norm.running_mean, plain.norm.running_mean)
