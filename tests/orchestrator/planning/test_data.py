"""How much room decoded images have where GPUs train."""

from types import SimpleNamespace

import torch

from ekd_train.data.memory import room_for_images
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.planning.data import gpu_memory, room

GPUS = Cluster(gpus_per_worker=1)


def test_half_of_the_smallest_gpu_is_for_images_where_gpus_train(monkeypatch):
    sizes = [80 << 30, 100 << 20]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    properties = [SimpleNamespace(total_memory=size) for size in sizes]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert room(GPUS) == 50 << 20
    assert room(Cluster()) == room_for_images()
    assert gpu_memory(GPUS, here=False) is None


def test_what_the_experiment_says_of_a_gpu_is_believed():
    assert room(Cluster(gpus_per_worker=1, gpu_memory_gib=0.125)) == 1 << 26


def test_a_machine_without_gpus_leaves_its_memory():
    assert room(GPUS) == room_for_images()
