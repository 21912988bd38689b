"""Workers find each other, on the interface of Ray's address, and the controller needs no torch for it."""

import subprocess
import sys

import pytest

MEMBER = """
import sys
import torch
import torch.distributed as dist
from orchestrator.runtime.process_group import destroy, join, prepare
rank, port = map(int, sys.argv[1:])
prepare()
join("gloo", "127.0.0.1", port, rank, 2)
total = torch.tensor(rank + 1)
dist.all_reduce(total)
print(int(total))
destroy()
destroy()
assert not dist.is_initialized()
"""


def test_importing_it_imports_no_torch():
    code = "import sys, orchestrator.runtime.process_group; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_two_processes_join_and_leave():
    import ray

    from orchestrator.runtime.process_group import free_address

    address, port = free_address()
    assert address == ray.util.get_node_ip_address()
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank), str(port)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    assert [member.communicate(timeout=300)[0].strip() for member in members] == ["3", "3"]
