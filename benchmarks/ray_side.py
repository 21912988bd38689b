"""The same worker under Ray Train, launched and reporting as `ekd run` does it.

Its arguments are a case of `between_workers` and a number of workers.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def work(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`; the first worker takes the driver's pipes for its turns."""
    import ray.train
    import ray.train.torch

    from benchmarks.between_workers import CASES
    from benchmarks.turns import GroupTurns
    from benchmarks.worker_side import train_in_turns
    from ekd_train.workers.worker import form_process_group

    driver = f"/proc/{config['driver']}/fd"
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    first = context.get_world_rank() == 0
    form_process_group(context.get_world_rank(), context.get_world_size(), device)
    jobs = config["jobs"]
    jobs.about("benchmark", first)
    with open(f"{driver}/0" if first else os.devnull) as source, open(f"{driver}/1", "w") as sink:
        train_in_turns(CASES[config["case"]], jobs, GroupTurns(source=source, sink=sink), device)


def main() -> None:
    """Start Ray and the worker pool, as `orchestrator.runtime` does."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from orchestrator.experiment.infrastructure import Cluster
    from orchestrator.runtime.job_queue import JobQueueClient, open_job_queue
    from orchestrator.runtime.ray_session import start_ray, stop_ray
    from orchestrator.runtime.worker_pool import VisibleGpus

    with tempfile.TemporaryDirectory() as folder:
        capacity = start_ray(Cluster(address="local"), Path(folder) / "ray.log")
        gpus = any(node.gpus for node in capacity.nodes)
        DataParallelTrainer(
            work,
            train_loop_config={
                "driver": os.getpid(),
                "jobs": JobQueueClient(open_job_queue()),
                "case": sys.argv[1],
            },
            backend_config=VisibleGpus(),
            scaling_config=ScalingConfig(
                num_workers=int(sys.argv[2]), use_gpu=gpus, resources_per_worker={"CPU": 1}
            ),
            run_config=RunConfig(name="benchmark", storage_path=folder),
        ).fit()
        stop_ray()


if __name__ == "__main__":
    main()
