"""Where the workers of a pool meet, which decides whether NCCL is asked."""

import pytest
import torch

from ekd_train.workers.worker import meeting_place

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "per_group", "place"), [(CUDA, 2, CUDA), (CUDA, 1, CPU), (CPU, 1, CPU), (CPU, 4, CPU)]
)
def test_workers_that_train_alone_and_may_share_a_gpu_meet_on_the_host(device, per_group, place):
    assert meeting_place(device, per_group) == place
