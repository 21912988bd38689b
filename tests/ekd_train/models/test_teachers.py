import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.teachers import Teachers


def two_architectures() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1),
        build_model("resnet", depth=8, stem_channels=4, num_classes=3, in_channels=1),
    ]


def test_teachers_of_different_architectures_give_logits_teachers_first():
    first, second = two_architectures()
    teachers = Teachers([first, second])
    images = torch.rand(2, 1, 8, 8)
    assert len(teachers) == 2
    assert teachers[1] is second
    assert torch.equal(teachers(images), torch.stack([first(images), second(images)]))


def test_training_a_module_that_holds_them_does_not_change_teachers():
    teachers = Teachers(two_architectures())
    nn.ModuleList([teachers]).train()
    buffers = [buffer.clone() for buffer in teachers.buffers()]
    teachers(torch.rand(4, 1, 8, 8))
    assert not any(module.training for module in teachers.modules())
    assert all(torch.equal(now, before) for now, before in zip(teachers.buffers(), buffers, strict=True))


def test_gradients_reach_images_but_no_teacher():
    teachers = Teachers(two_architectures())
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    teachers(images).square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in teachers.parameters())


def test_without_images_that_need_gradients_no_graph_is_kept():
    assert not Teachers(two_architectures())(torch.rand(2, 1, 8, 8)).requires_grad


def test_no_teacher_is_an_error():
    with pytest.raises(ValueError, match="at least one teacher"):
        Teachers([])


def test_teachers_of_different_classes_are_an_error():
    with pytest.raises(ValueError, match=r"same classes.*\(2, 3\), \(2, 4\)"):
        Teachers([nn.Linear(5, 3), nn.Linear(5, 4)])(torch.rand(2, 5))
