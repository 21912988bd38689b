import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ekd_train.models import build_model
from ekd_train.models.batch_ensemble import average_members, to_batch_ensemble
from ekd_train.models.branches import Branched, to_branches
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm, to_synchronised_batch_norm

SHARES = [(5, 3), (8, 0)]


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, momentum=None),
    ]
    head = [nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)]
    return nn.Sequential(*body, *head).double()


def images() -> torch.Tensor:
    # Far from zero, where sums of squares would lose digits.
    return 100 + torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def two_steps(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, gradients and running statistics of a loss that is a sum over images."""
    module.train()
    x = x.clone().requires_grad_()
    module(x * 0.5)  # a first batch, for the running statistics
    y = module(x)
    y.pow(3).sum().backward()
    found = {"output": y.detach(), "input gradient": x.grad}
    found |= {f"gradient of {name}": p.grad for name, p in module.named_parameters()}
    return found | dict(module.named_buffers())


def far_from_zero() -> torch.Tensor:
    """Bfloat16 images whose mean is 32 times their deviation."""
    noise = torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    return (8 + noise / 4).bfloat16()


def input_gradient(module: nn.Module, x: torch.Tensor, rows: slice) -> torch.Tensor:
    """Of a loss whose gradient differs from value to value: `rows` of the batch are this worker's."""
    weights = torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(3))[rows].to(x.dtype)
    own = x[rows].clone().requires_grad_()
    (module.train()(own) * weights).sum().backward()
    assert own.grad is not None
    return own.grad


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for shares in SHARES:
        found = two_steps(to_synchronised_batch_norm(network()), images().split(shares)[rank])
        torch.save(found, f"{folder}/{shares[0]}-{rank}.pt")
    module = to_synchronised_batch_norm(nn.BatchNorm2d(4))
    own = input_gradient(module, far_from_zero(), slice(32 * rank, 32 * rank + 32))
    torch.save(own, f"{folder}/bfloat16-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found_by_two_workers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shares", SHARES)
def test_two_workers_agree_with_one_over_the_whole_batch(found_by_two_workers, shares):
    expected = two_steps(network(), images())
    first, second = (torch.load(found_by_two_workers / f"{shares[0]}-{rank}.pt") for rank in range(2))
    for name, tensor in expected.items():
        if name in ("output", "input gradient"):
            torch.testing.assert_close(torch.cat([first[name], second[name]]), tensor)
        elif name.startswith("gradient"):
            torch.testing.assert_close(first[name] + second[name], tensor)
        else:
            torch.testing.assert_close(first[name], tensor, msg=name)
            torch.testing.assert_close(second[name], tensor, msg=name)


@pytest.mark.slow
def test_in_bfloat16_two_workers_lose_no_more_than_torch_does_over_the_whole_batch(found_by_two_workers):
    exact = input_gradient(nn.BatchNorm2d(4).double(), far_from_zero().double(), slice(None))
    torchs = input_gradient(nn.BatchNorm2d(4), far_from_zero(), slice(None))
    shares = [torch.load(found_by_two_workers / f"bfloat16-{rank}.pt") for rank in range(2)]
    ours, theirs = ((found.double() - exact).square().mean().sqrt() for found in (torch.cat(shares), torchs))
    assert ours < 1.2 * theirs


def test_one_process_alone_computes_the_plain_batch_norm():
    plain, synchronised = network(), to_synchronised_batch_norm(network())
    for name, tensor in two_steps(plain, images()).items():
        assert torch.equal(two_steps(copy.deepcopy(synchronised), images())[name], tensor)


def test_conversion_there_and_back_changes_classes_only():
    plain = network()
    synchronised = to_synchronised_batch_norm(plain)
    assert list(synchronised.state_dict()) == list(plain.state_dict())
    assert not any(type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) for layer in synchronised.modules())
    back = from_synchronised_batch_norm(synchronised)
    assert [type(layer) for layer in back.modules()] == [type(layer) for layer in plain.modules()]


@pytest.mark.parametrize(
    ("convert", "average"), [(to_batch_ensemble, average_members), (to_branches, Branched.averaged)]
)
def test_the_average_of_a_synchronised_student_has_ordinary_batch_norms(convert, average):
    plain = build_model("wide_resnet", depth=10, stem_channels=4, num_classes=3)
    student = to_synchronised_batch_norm(convert(plain, 2))
    averaged = average(student)
    assert [type(layer) for layer in averaged.modules()] == [type(layer) for layer in plain.modules()]


def test_a_batch_norm_that_is_not_understood_is_refused_by_name():
    with pytest.raises(TypeError, match="cannot synchronise '1': BatchNorm3d"):
        to_synchronised_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm3d(2)))
