"""Workers find each other, on the interface of their node's address."""

import os
import subprocess
import sys

import pytest

from ekd_train.workers.process_group import rendezvous_url

MEMBER = """
import os, sys
import torch
import torch.distributed as dist
from ekd_train.workers.process_group import join
join(sys.argv[1], "127.0.0.1", int(sys.argv[2]), 2, torch.device("cpu"))
total = torch.tensor(int(sys.argv[2]) + 1)
dist.all_reduce(total)
print(int(total), os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"])
"""


def members(**environment):
    url = rendezvous_url("127.0.0.1")
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, url, str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            env=clean | environment,
        )
        for rank in range(2)
    ]
    return [process.communicate(timeout=500)[0].strip() for process in processes]


@pytest.mark.slow
def test_two_processes_meet_on_the_interface_of_their_address():
    assert members() == ["3 lo lo"] * 2


@pytest.mark.slow
def test_an_interface_that_the_user_has_named_stays():
    assert members(NCCL_SOCKET_IFNAME="eth7") == ["3 lo eth7"] * 2


def test_an_ipv6_address_is_written_in_brackets():
    assert rendezvous_url("::1").startswith("tcp://[::1]:")
