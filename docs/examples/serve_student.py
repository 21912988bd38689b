"""A registered student behind HTTP, with Ray Serve: batches what arrives together. See docs/serving.md."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import mlflow
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


def load_student(model_uri: str) -> torch.nn.Module:
    """The program of `models:/NAME/VERSION` or `models:/NAME@ALIAS`: code, whose bytes are compared."""
    client, (name, _, alias) = mlflow.MlflowClient(), model_uri.removeprefix("models:/").partition("@")
    if alias:
        version = client.get_model_version_by_alias(name, alias)
    else:
        version = client.get_model_version(*name.split("/"))
    folder = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
    archive = Path(folder, "data", "model.pt2").read_bytes()
    if hashlib.sha256(archive).hexdigest() != version.tags.get("ekd.archive_sha256"):
        raise RuntimeError(f"{model_uri}: its data/model.pt2 is not the file that was registered")
    return torch.export.load(io.BytesIO(archive)).module()


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 1})
class Student:
    """`{"image": [channels][height][width]}` in [0, 1] to `{"probabilities": [classes]}`."""

    def __init__(self, model_uri: str) -> None:
        self.network = load_student(model_uri)
        (images,) = self.network.graph.find_nodes(op="placeholder")
        self.shape = tuple(images.meta["val"].shape[1:])

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
