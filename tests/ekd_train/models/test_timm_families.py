"""Members of timm's families, against plain networks whose weights were multiplied by hand."""

from typing import Any

import pytest
import timm
import torch
from members_by_definition import with_scaled_weights
from torch import Tensor, nn

from ekd_train.models.batch_ensemble import average_members, to_batch_ensemble

_THIN = {"depths": (1, 1, 1, 1)}
_SHALLOW = {"depth": 2}

FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "BEiT": ("beit_base_patch16_224", 32, {**_SHALLOW, "embed_dim": 48, "num_heads": 3}),
    "CaiT": ("cait_xxs24_224", 32, _SHALLOW),
    "CoaT": ("coat_tiny", 32, {}),
    "CoAtNet": ("coatnet_nano_rw_224", 64, {}),
    "ConViT": ("convit_tiny", 32, _SHALLOW),
    "ConvNeXt": ("convnext_atto", 32, {}),
    "CrossViT": ("crossvit_tiny_240", 240, {}),
    "CSPNet": ("cspdarknet53", 32, {}),
    "DeiT": ("deit_tiny_distilled_patch16_224", 32, _SHALLOW),
    "DenseNet": ("densenet121", 32, {}),
    "DLA": ("dla46_c", 32, {}),
    "DPN": ("dpn48b", 32, {}),
    "EdgeNeXt": ("edgenext_xx_small", 64, {}),
    "EfficientFormer": ("efficientformer_l1", 224, {}),
    "EfficientNetV2": ("efficientnetv2_rw_t", 32, {}),
    "EVA": ("eva02_tiny_patch14_224", 56, _SHALLOW),
    "FastViT": ("fastvit_t8", 64, {}),
    "GhostNet": ("ghostnet_050", 32, {}),
    "gMLP": ("gmlp_ti16_224", 32, {}),
    "HardCoreNAS": ("hardcorenas_a", 32, {}),
    "Hiera": ("hiera_tiny_224", 224, {"embed_dim": 12, "stages": (1, 1, 1, 1)}),
    "HRNet": ("hrnet_w18_small", 32, {}),
    "Inception": ("inception_v3", 80, {}),
    "InceptionNeXt": ("inception_next_atto", 64, {}),
    "LeViT": ("levit_128s", 224, {}),
    "MaxViT": ("maxvit_pico_rw_256", 64, {}),
    "Mixer": ("mixer_s32_224", 64, {}),
    "MNASNet": ("mnasnet_small", 32, {}),
    "MobileNetV4": ("mobilenetv4_conv_small_035", 32, {}),
    "MobileViT": ("mobilevit_xxs", 64, {}),
    "Nest": ("nest_tiny", 64, {}),
    "NFNet": ("nf_resnet26", 32, {}),
    "PiT": ("pit_ti_224", 64, {}),
    "PoolFormer": ("poolformerv2_s12", 32, {}),
    "PVTv2": ("pvt_v2_b0", 32, {}),
    "RegNet": ("regnety_002", 32, {}),
    "RepVGG": ("repvgg_a0", 32, {}),
    "Res2Net": ("res2net50_26w_4s", 32, {}),
    "ResMLP": ("resmlp_12_224", 32, {}),
    "ResNeSt": ("resnest14d", 32, {}),
    "ResNet": ("resnet10t", 32, {}),
    "ResNeXt": ("resnext26ts", 32, {}),
    "ReXNet": ("rexnet_100", 32, {}),
    "SelecSLS": ("selecsls42", 32, {}),
    "SENet": ("legacy_seresnet18", 32, {}),
    "Sequencer": ("sequencer2d_s", 64, {}),
    "Swin": ("swin_tiny_patch4_window7_224", 64, {**_THIN, "embed_dim": 24, "window_size": 4}),
    "TinyViT": ("tiny_vit_5m_224", 64, {}),
    "TResNet": ("tresnet_m", 32, {}),
    "Twins": ("twins_pcpvt_small", 32, _THIN),
    "VGG": ("vgg11_bn", 32, {"mlp_ratio": 0.02}),
    "Visformer": ("visformer_tiny", 64, {}),
    "ViT": ("vit_tiny_patch16_224", 32, _SHALLOW),
    "VOLO": ("volo_d1_224", 32, {}),
    "VoVNet": ("ese_vovnet19b_slim", 32, {}),
    "Xception": ("legacy_xception", 64, {}),
    "XCiT": ("xcit_nano_12_p16_224", 32, {}),
}
"""Family: a network of it, pixels of its images, and what makes it smaller than its name says."""

REFUSED = {
    "Sequencer": "'stages.0.blocks.0.rnn_tokens.rnn_v': LSTM: its weights are of a kind",
    "XCiT": "'pos_embed.token_projection': Conv2d: another module reads its weight",
}
"""An LSTM holds four layers in one; XCiT convolves its positions apart from the batch, beside BatchNorm."""


FAST = ("ConvNeXt", "DeiT", "MobileNetV4", "NFNet", "ResNet", "Swin")
TOLERANCE = 1e-12


def small_network(family: str) -> tuple[nn.Module, Tensor]:
    """A network of `family` in float64, none of whose weights is a constant, and two images for it."""
    name, size, smaller = FAMILIES[family]
    torch.manual_seed(0)
    made_for = timm.get_pretrained_cfg(name)
    assert made_for is not None
    sized = {"img_size": size} if made_for.fixed_input_size else {}
    plain = timm.create_model(name, num_classes=5, **sized, **smaller).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    return plain, torch.rand(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f in FAST else [pytest.mark.slow]) for f in FAMILIES if f not in REFUSED],
)
def test_a_member_is_the_plain_network_of_its_weights_and_so_is_the_average(family):
    plain, images = small_network(family)
    ensemble = to_batch_ensemble(plain, 2, "normal", init_std=0.1).eval()
    averaged = average_members(ensemble)
    assert type(averaged) is type(plain)
    assert list(averaged.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        logits = [*ensemble(images), averaged(images)]
        assert not torch.allclose(logits[0], logits[1])
        for member, computed in zip((0, 1, None), logits, strict=True):
            expected = with_scaled_weights(plain, ensemble, member)(images)
            assert (computed - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_is_refused_by_the_module_that_cannot_have_factors(family):
    plain, images = small_network(family)
    with pytest.raises(TypeError) as refusal:
        to_batch_ensemble(plain, 2)(images)
    assert REFUSED[family] in str(refusal.value)


def test_55_of_57_families_are_accepted():
    assert len(FAMILIES) == 57
    assert len(FAMILIES.keys() - REFUSED.keys()) == 55
