import copy

import pytest
import torch
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import to_batch_ensemble
from ekd_train.models.branches import to_branches

BOTH_KINDS = pytest.mark.parametrize("convert", [to_batch_ensemble, to_branches])


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3, in_channels=1)


@BOTH_KINDS
def test_the_average_has_the_class_and_keys_of_the_plain_network(convert):
    plain = plain_network()
    averaged = convert(plain, 3).averaged()
    assert type(averaged) is type(plain)
    assert list(averaged.state_dict()) == list(plain.state_dict())


@BOTH_KINDS
def test_the_state_holds_every_tensor_once(convert):
    addresses = [tensor.data_ptr() for tensor in convert(plain_network(), 3).state_dict().values()]
    assert len(addresses) == len(set(addresses))


@BOTH_KINDS
def test_a_state_moves_to_another_student_of_the_same_make(convert):
    trained, fresh = convert(plain_network(), 2).eval(), convert(plain_network(), 2).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    images = torch.rand(2, 1, 8, 8)
    assert not torch.equal(fresh(images), trained(images))
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert torch.equal(fresh(images), trained(images))


@BOTH_KINDS
def test_an_empty_share_of_a_batch_gives_no_logits(convert):
    assert convert(plain_network(), 2).eval()(torch.empty(0, 1, 8, 8)).shape == (2, 0, 3)
