"""How much room decoded images have where GPUs train."""

import os

import pytest

from ekd_train.data.memory import room_for_images
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.planning.data import room

GPUS = Cluster(gpus_per_worker=1)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Makes the driver's tool print a text."""

    def prints(text, status=0):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return prints


def test_half_of_the_smallest_gpu_is_for_images_where_gpus_train(nvidia_smi):
    nvidia_smi("81920\\n100\\n")
    assert room(GPUS) == 50 << 20
    assert room(Cluster()) == room_for_images()


@pytest.mark.parametrize(("printed", "status"), [("", 0), ("no devices", 0), ("100", 9)])
def test_a_tool_that_says_nothing_leaves_the_machines_memory(nvidia_smi, printed, status):
    nvidia_smi(printed, status)
    assert room(GPUS) == room_for_images()
