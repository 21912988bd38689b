"""Memory that one step frees is there for the next one, without asking the system for it again."""

import os
import platform
import subprocess
import sys

import pytest

from ekd_train.workers.allocator import KEEP_FREED_MEMORY

PROGRAM = """
import resource, threading
import torch
def step():
    maps = [torch.ones(n * 2**20) for n in (1, 5, 20, 100)]  # 4 to 400 MiB
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def train():
    counts = []
    for _ in range(12):  # the first ones make the heap; in any other one the kernel may take pages back
        before = faults()
        step()
        counts.append(faults() - before)
    print(min(counts))
thread = threading.Thread(target=train)  # where Ray Train trains
thread.start()
thread.join()
"""


def faults(environment):
    """Page faults of the step that has the fewest."""
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return int(answer)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_steps_of_a_process_that_keeps_its_memory_fault_no_pages_in():
    plain = {name: value for name, value in os.environ.items() if name not in KEEP_FREED_MEMORY}
    assert faults(plain | KEEP_FREED_MEMORY) < 100 < faults(plain)
