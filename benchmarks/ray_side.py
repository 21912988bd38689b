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

    driver = f"/proc/{config['driver']}/fd"
    first = ray.train.get_context().get_world_rank() == 0
    desk = config["desk"]
    desk.about("benchmark", first)
    with open(f"{driver}/0" if first else os.devnull) as source, open(f"{driver}/1", "w") as sink:
        train_in_turns(
            CASES[config["case"]], desk, GroupTurns(source=source, sink=sink), ray.train.torch.get_device()
        )


def main() -> None:
    """Start Ray and the worker group, as `orchestrator.ray_session` and `orchestrator.launch` do."""
    from ray.train import RunConfig, ScalingConfig

    from orchestrator.dispatcher import LaneDesk, open_dispatcher
    from orchestrator.experiment import Cluster
    from orchestrator.process_group import ProcessGroupConfig
    from orchestrator.ray_session import start_ray, stop_ray
    from orchestrator.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        capacity = start_ray(Cluster(address="local"), Path(folder) / "ray.log")
        gpus = any(node.gpus for node in capacity.nodes)
        Trainer(
            work,
            own=capacity.own,
            train_loop_config={
                "driver": os.getpid(),
                "desk": LaneDesk(open_dispatcher()),
                "case": sys.argv[1],
            },
            backend_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(
                num_workers=int(sys.argv[2]), use_gpu=gpus, resources_per_worker={"CPU": 1}
            ),
            run_config=RunConfig(name="benchmark", storage_path=folder),
        ).fit()
        stop_ray()


if __name__ == "__main__":
    main()
