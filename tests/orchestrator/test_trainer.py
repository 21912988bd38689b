"""The trainer starts the actors that a run has a use for, and no others."""

import json
import subprocess
import sys

import pytest

FIT = """
import json, os, sys, tempfile
os.environ["RAY_TRAIN_METRICS_ENABLED"] = os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
import ray
from ray.train import RunConfig, ScalingConfig
from orchestrator.trainer import Trainer

def work(config):
    ray.train.report({"rank": ray.train.get_context().get_world_rank()})

def actors():
    return {actor["ActorClassName"].split(".")[0] for actor in ray._private.state.actors().values()}

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
found = {}
with tempfile.TemporaryDirectory() as folder:
    for own in (True, False):
        Trainer(
            work,
            own=own,
            train_loop_config={},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(name=str(own), storage_path=folder),
        ).fit()
        found["own" if own else "shared"] = sorted(actors())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_in_a_ray_of_our_own_nobody_waits_to_clean_up_or_to_ask_for_machines():
    done = subprocess.check_output([sys.executable, "-c", FIT], text=True, timeout=180)
    found = {key: set(names) for key, names in json.loads(done.splitlines()[-1]).items()}
    assert found["own"] == {"TrainController", "RayTrainWorker", "SynchronizationActor"}
    assert found["shared"] - found["own"] == {"PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}


def test_ray_still_makes_the_helpers_that_are_left_out_by_name():
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from orchestrator.trainer import NEEDED_WHERE_SHARED, NEVER_NEEDED, Trainer

    def names(trainer):
        return {type(one).__name__ for one in trainer._create_default_callbacks()}

    usual = names(DataParallelTrainer(print, scaling_config=ScalingConfig()))
    assert usual - names(Trainer(print, own=True)) == NEVER_NEEDED | NEEDED_WHERE_SHARED
    assert usual - names(Trainer(print, own=False)) == NEVER_NEEDED
