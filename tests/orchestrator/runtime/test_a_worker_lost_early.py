"""A worker that dies while the process group is formed is replaced, and nothing keeps its CPU."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, pathlib, sys
import ray
import torch
import torch.distributed as dist
from ray.train import RunConfig
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ekd_train.workers import process_group, worker
from orchestrator.runtime.worker_pool import VisibleGpus

folder = pathlib.Path(sys.argv[1])
once = folder / "it died"


def work():
    rank = ray.train.get_context().get_world_rank()

    def die(*arguments):
        if rank == 1 and not once.exists():
            once.touch()
            os._exit(1)
        process_group.join(*arguments)

    worker.join = die
    worker.form_process_group(rank, 2, torch.device("cpu"))
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    (folder / f"total-{rank}").write_text(str(int(total)))


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
DataParallelTrainer(
    work,
    backend_config=VisibleGpus(),
    scaling_config=ScalingConfig(num_workers=2),  # all CPUs: one that stays occupied is one too few
    run_config=RunConfig(name="run", storage_path=str(folder), failure_config=FailureConfig(max_failures=1)),
).fit()
print(once.exists(), *((folder / f"total-{rank}").read_text() for rank in range(2)))
"""


@pytest.mark.slow
def test_it_is_tried_again_on_the_same_cpus(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    # Among its lines: Ray says on stdout too that a worker has died.
    assert "True 3 3" in done.stdout.splitlines(), done.stdout + done.stderr
