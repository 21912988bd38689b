"""Weights at an `s3://` URI are the weights of a file with the same bytes."""

import hashlib
import json

import pytest
import safetensors.torch
import torch

from ekd_train.models import build_model
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import build_experiment
from orchestrator.pretrained.read import read_pretrained
from orchestrator.storage.s3 import S3Storage

SHAPE = {"name": "resnet", "depth": 8, "stem_channels": 4}


@pytest.mark.slow
def test_they_are_read_from_there_with_what_lies_beside_them(s3: S3Storage) -> None:
    network = build_model(**SHAPE, num_classes=10, in_channels=1, image_size=8)
    uri, data = s3.uri("models/first.safetensors"), safetensors.torch.save(network.state_dict())
    experiment = build_experiment(
        {
            "name": "mine",
            "data": {"name": "digits"},
            "teachers": [{"weights": uri}],
            "student": {"method": "kd"},
            "perturbation": {"kind": "none"},
            "storage": {"uri": s3.uri("runs"), "endpoint_url": s3.endpoint_url},
        }
    )
    with pytest.raises(ExperimentError, match=f"teachers.weights: {uri}: there is no such file"):
        read_pretrained(experiment)
    s3.write("models/first.safetensors", data)
    with pytest.raises(ExperimentError, match="Name its architecture"):
        read_pretrained(experiment)
    s3.write("models/first.safetensors.json", json.dumps({"build_model": SHAPE}).encode())
    found, networks = read_pretrained(experiment)
    (run,) = found.teacher_runs()
    assert run.architecture.depth == 8
    assert run.architecture.weights_sha256 == hashlib.sha256(data).hexdigest()
    (read,) = networks.values()
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in network.state_dict().items())
