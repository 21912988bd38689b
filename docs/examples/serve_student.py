"""A registered student behind HTTP, with Ray Serve: batches what arrives together. See docs/serving.md."""

import os

import mlflow.pytorch
import torch
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Student:
    """`{"image": [channels][height][width]}` in [0, 1] to `{"probabilities": [classes]}`."""

    def __init__(self, model_uri: str) -> None:
        self.network = mlflow.pytorch.load_model(model_uri)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def probabilities(self, images: list[list]) -> list[list[float]]:
        """One forward for all images that arrived within 5 ms."""
        with torch.inference_mode():
            return self.network(torch.tensor(images)).softmax(dim=-1).tolist()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Answer one request."""
        return {"probabilities": await self.probabilities((await request.json())["image"])}


student = Student.bind(os.environ.get("MODEL_URI", "models:/ekd-digits@champion"))
