"""timm's classifiers as any other, where timm is installed, and one line that says so where it is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from training_runs import a_description

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.networks import check_networks

DIGITS = a_description(train=200, num_classes=10)


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="needs the extra `timm`")


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("resnet10t", 1, 32), ("seresnet18", 3, 32), ("mobilenetv3_small_050", 3, 64), ("test_vit", 3, 64)],
)
def test_a_timm_classifier_has_timms_weights_under_network(timm, name, channels, size):
    torch.manual_seed(0)
    ours = build_model(f"timm/{name}", num_classes=7, in_channels=channels, image_size=size).eval()
    fixed = {"img_size": size} if name == "test_vit" else {}
    stock = timm.create_model(name, num_classes=7, in_chans=channels, **fixed).eval()
    stock.load_state_dict({key.removeprefix("network."): v for key, v in ours.state_dict().items()})
    images = torch.rand(2, channels, size, size)
    torch.testing.assert_close(ours(images), stock(images))


def test_an_unknown_name_is_answered_with_the_nearest(timm):
    with pytest.raises(
        ValueError, match="unknown architecture 'timm/seresnet81'; the nearest are timm/seres"
    ):
        build_model("timm/seresnet81", num_classes=3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"small_images": True}, "timm/resnet10t: small_images applies to torchvision's names only"),
        ({"depth": 10}, "timm/resnet10t: depth, width and stem_channels apply"),
        (
            {"pruned": 0.25},
            r"channels of timm\.models\.resnet\.ResNet cannot be pruned",
        ),
    ],
)
def test_what_does_not_apply_is_refused(timm, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_model("timm/resnet10t", num_classes=3, **arguments)


def test_a_network_that_images_are_too_small_for_is_refused_with_their_size(timm):
    with pytest.raises(ValueError, match=r"timm/vit_tiny_patch16_224 cannot take .*8x8 images"):
        build_model("timm/vit_tiny_patch16_224", num_classes=3, image_size=8)


def test_a_student_of_timm_has_members_whether_it_convolves_or_attends(timm):
    images = torch.rand(2, 3, 32, 32)
    for name in ("timm/seresnet18", "timm/test_vit"):
        plain = build_model(name, num_classes=3, image_size=32).eval()
        for logits in to_batch_ensemble(plain, 2).eval()(images):
            torch.testing.assert_close(logits, plain(images), rtol=1e-4, atol=1e-5)


def test_a_timm_teacher_passes_the_checks(timm):
    experiment = load_experiment("digits", ["teachers.architecture={name: timm/resnet10t}"])
    check_networks(experiment, DIGITS)


@pytest.mark.slow
def test_without_timm_its_names_say_what_to_install():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from ekd_train.models import build_model\n"
        "build_model('timm/resnet10t', num_classes=3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ValueError: timm/resnet10t needs timm: pip install 'ekd[timm]'"


@pytest.mark.slow
def test_torchvisions_names_need_no_timm():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from ekd_train.models import build_model\n"
        "build_model('resnet18', num_classes=3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
