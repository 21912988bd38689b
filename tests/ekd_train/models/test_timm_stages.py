"""timm's networks as rows of stages: one after the other they are the network's own forward."""

import pytest
import timm
import torch
from torch import nn

from ekd_train.models.branches import to_branches
from ekd_train.models.stages import stages
from ekd_train.models.timm_stages import KNOWN, is_known

NETWORKS = {
    "caformer_s18": 32,
    "convnext_atto": 32,
    "coatnet_nano_rw_224": 64,
    "cspdarknet53": 32,
    "davit_tiny": 32,
    "densenet121": 32,
    "dla46_c": 32,
    "dpn48b": 32,
    "edgenext_xx_small": 32,
    "efficientnetv2_rw_t": 32,
    "efficientvit_b0": 32,
    "ese_vovnet19b_slim": 32,
    "fastvit_t8": 64,
    "focalnet_tiny_srf": 32,
    "ghostnet_050": 32,
    "hgnetv2_b0": 32,
    "inception_next_atto": 32,
    "inception_v3": 80,
    "inception_v4": 80,
    "legacy_seresnet18": 32,
    "legacy_xception": 64,
    "mobilenetv4_conv_small_035": 32,
    "mobilevit_xxs": 32,
    "nextvit_small": 32,
    "nf_resnet26": 32,
    "regnety_002": 32,
    "resnest14d": 32,
    "resnet10t": 32,
    "resnetv2_18": 32,
    "rexnet_100": 32,
    "selecsls42": 32,
    "starnet_s1": 32,
    "tiny_vit_5m_224": 224,
    "tresnet_m": 32,
    "vgg11_bn": 32,
    "xception41p": 32,
}
FAST = ("convnext_atto", "dla46_c", "mobilenetv4_conv_small_035", "regnety_002", "resnet10t")


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    made_for = timm.get_pretrained_cfg(name)
    size = NETWORKS[name]
    sized = {"img_size": size} if made_for is not None and made_for.fixed_input_size else {}
    net = timm.create_model(name, num_classes=3, **sized).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return net, torch.rand(2, 3, size, size)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in NETWORKS]
)
def test_the_stages_one_after_the_other_are_the_network(name):
    net, images = network(name)
    row = stages(net)
    *body, head = row.values()
    assert len(body) >= 3
    assert list(row)[-1] == "head"
    assert sum(p.numel() for part in row.values() for p in part.parameters()) == sum(
        p.numel() for p in net.parameters()
    )
    with torch.no_grad():
        features = nn.Sequential(*body)(images)
        assert features.dim() == 4
        assert features.shape[1] > features.shape[2] == features.shape[3]  # channels, not rows, come first
        torch.testing.assert_close(head(features), net(images))


def test_every_class_that_is_known_is_tested():
    with torch.device("meta"):
        nets = [timm.create_model(name) for name in NETWORKS]
    assert {type(net).__name__ for net in nets} == KNOWN
    assert all(is_known(net) for net in nets)


def test_branches_of_a_network_of_timms_average_to_it():
    net, images = network("regnety_002")
    branched = to_branches(net, 2, "s2").eval()
    with torch.no_grad():
        torch.testing.assert_close(branched(images), net(images).expand(2, -1, -1))
        torch.testing.assert_close(branched.averaged()(images), net(images))
    assert list(branched.averaged().state_dict()) == list(net.state_dict())


def test_a_network_whose_features_are_tokens_is_refused_by_name():
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(
        TypeError, match=r"the stages of timm\.models\.vision_transformer\.VisionTransformer"
    ) as raised:
        stages(net)
    before, separator, of_timm = str(raised.value).partition(", and of timm's ")
    assert separator
    assert of_timm.split(", ") == sorted(KNOWN, key=str.lower)
    ours_and_torchvisions = before.partition("known are ")[2].split(", ")
    assert {"WideResNet", "ResNet", "ConvNeXt"} <= set(ours_and_torchvisions)
    assert len(set(ours_and_torchvisions)) == len(ours_and_torchvisions)


def test_where_branches_cannot_be_the_methods_that_can_are_named():
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(TypeError, match=r"VisionTransformer are not known; .*latent_be and lora.* of it"):
        to_branches(net, 2)
