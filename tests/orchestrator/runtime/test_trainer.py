"""The trainer starts the actors that a run has a use for, and no others."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

FIT = """
import json, os, sys, tempfile
os.environ["RAY_TRAIN_METRICS_ENABLED"] = os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
import ray
from ray.train import RunConfig, ScalingConfig
from orchestrator.runtime.trainer import Trainer

def work(config):
    ray.train.report({"rank": ray.train.get_context().get_world_rank()})

def actors():
    return {actor["ActorClassName"].split(".")[0] for actor in ray._private.state.actors().values()}

os.environ["RAY_worker_niceness"] = "0"  # else whatever else the machine does goes first
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
    done = subprocess.check_output([sys.executable, "-c", FIT], text=True, timeout=500)
    found = {key: set(names) for key, names in json.loads(done.splitlines()[-1]).items()}
    assert found["own"] == {"TrainController", "RayTrainWorker", "SynchronizationActor"}
    assert found["shared"] - found["own"] == {"PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}


def test_ray_still_makes_the_helpers_that_are_left_out_by_name():
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from orchestrator.runtime.trainer import NEEDED_WHERE_SHARED, NEVER_NEEDED, Trainer

    def names(trainer):
        return {type(one).__name__ for one in trainer._create_default_callbacks()}

    usual = names(DataParallelTrainer(print, scaling_config=ScalingConfig()))
    assert usual - names(Trainer(print, own=True)) == NEVER_NEEDED | NEEDED_WHERE_SHARED
    assert usual - names(Trainer(print, own=False)) == NEVER_NEEDED


@pytest.mark.parametrize(
    ("own", "workers", "policy"),
    [(True, 2, "NothingToScale"), (True, (1, 2), "ElasticScalingPolicy"), (False, 2, "FixedScalingPolicy")],
)
def test_only_a_fixed_group_in_a_ray_of_our_own_asks_nobody_for_machines(own, workers, policy, monkeypatch):
    from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
    from ray.train.v2.api.config import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from orchestrator.runtime.trainer import Trainer

    monkeypatch.setattr(
        DataParallelTrainer, "_initialize_and_run_controller", lambda self, **given: given["scaling_policy"]
    )
    scaling = ScalingConfig(num_workers=workers)
    found = Trainer(print, own=own)._initialize_and_run_controller(
        scaling_policy=create_scaling_policy(scaling)
    )
    assert type(found).__name__ == policy
    assert found.scaling_config == scaling


@pytest.mark.parametrize("here", [True, False])
def test_a_worker_group_tells_its_trainer_whose_ray_it_is(here, monkeypatch):
    from orchestrator.experiment.infrastructure import Cluster
    from orchestrator.planning.capacity import HERE, Capacity, Node
    from orchestrator.runtime import worker_pool

    made = []

    class Quiet(worker_pool.WorkerPool):
        def __init__(self):
            self.cluster = Cluster()

        def _trainer(self, fewest, most, own_ray):
            made.append((fewest, most, own_ray))
            return SimpleNamespace(fit=lambda: None)

    group = Quiet()
    group.start(Capacity((Node(2, 0),), HERE if here else "ray://elsewhere"), runs=4)
    group.thread.join()
    assert made[0][2] is here
