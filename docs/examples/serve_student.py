"""A registered student behind HTTP, with Ray Serve: batches what arrives together. See docs/serving.md."""

import os
from typing import Any

import mlflow.models
import mlflow.pytorch
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse
from torch import Tensor


class WrongImageError(ValueError):
    """The request's image is not one that the student takes; the message says why."""


def read_image(content: Any, shape: tuple[int, int, int]) -> Tensor:
    """The float32 image `shape` of `{"image": [channels][height][width]}`; raises `WrongImageError`."""
    if not isinstance(content, dict) or "image" not in content:
        raise WrongImageError('expected {"image": [channels][height][width]}')
    try:
        image = torch.tensor(content["image"], dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise WrongImageError(f"image: not numbers of one shape: {error}") from None
    if image.shape != shape:
        raise WrongImageError(f"image: expected the shape {list(shape)}, got {list(image.shape)}")
    if not ((image >= 0) & (image <= 1)).all():  # False for NaN too
        raise WrongImageError("image: expected numbers from 0 to 1")
    return image


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Student:
    """`{"image": [channels][height][width]}` in [0, 1] to `{"probabilities": [classes]}`."""

    def __init__(self, model_uri: str) -> None:
        self.network = mlflow.pytorch.load_model(model_uri)
        signature = mlflow.models.get_model_info(model_uri).signature
        self.shape = tuple(signature.inputs.inputs[0].shape[1:])

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def probabilities(self, images: list[Tensor]) -> list[list[float]]:
        """One forward for all images that arrived within 5 ms."""
        with torch.inference_mode():
            return self.network(torch.stack(images)).softmax(dim=-1).tolist()

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer one request; a wrong one gets status 400 before it could reach a batch."""
        try:
            image = read_image(await request.json(), self.shape)
        except ValueError as error:  # of the JSON too
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"probabilities": await self.probabilities(image)})


student = Student.bind(os.environ.get("MODEL_URI", "models:/ekd-digits@champion"))
