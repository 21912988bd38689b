"""Saving a network as an MLflow model that loads without this project's code."""

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekd_train.persistence.bounded_zip import check_zip
from orchestrator.errors import EkdError
from orchestrator.registry.provenance import loading_requirements
from orchestrator.runtime.environment import in_the_environment
from orchestrator.runtime.ray_logging import root_logger_kept

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import FileInfo, LoggedModel
    from torch import nn

CHECKED_BATCHES = (1, 2, 7)
TOLERANCE = 1e-4
"""Largest difference between the saved and the given network's logits, absolute and relative."""


ARCHIVE = "data/model.pt2"
"""Where MLflow puts the program among a model's files."""
ARCHIVE_TAG = "ekd.archive_sha256"
"""On a registered version: of that file's bytes, taken by the process that wrote it."""
MOST_BYTES = {"MLmodel": 4_000_000, ARCHIVE: 16 << 30}
"""What is fetched of a registered model, and how large it may be."""


class ExportError(EkdError):
    """The network cannot be saved in pt2 form, or what was saved is not the same function."""


def save_exported(
    module: "nn.Module",
    example_images: "np.ndarray",
    folder: Path,
    logged_model: "LoggedModel",
    run_id: str,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save `module` under `folder` as an MLflow model in pt2 form (torch.export), and check it.

    The batch axis is dynamic. Everything is done on a copy, on the CPU, in eval mode.

    Args:
        module: images (b, c, h, w) in [0, 1] -> logits (b, classes).
        example_images: (b, c, h, w) float32 in [0, 1], b >= 2: a batch of one would fix the axis.
        folder: does not exist yet.
        logged_model: the MLflow model that it becomes, made by the MLflow run `run_id`.
        metadata: of the MLflow model, as `mlflow.models.get_model_info` gives it.

    Raises `ExportError`: it cannot be exported, or for a batch of 1, 2 or 7 it gives other logits;
    `ValueError`: wrong example images.
    """
    with root_logger_kept():  # it calls logging.basicConfig
        import mlflow.pytorch
    import numpy as np
    import torch

    if example_images.ndim != 4 or len(example_images) < 2 or example_images.dtype != np.float32:
        raise ValueError(
            "example images: expected float32 (b >= 2, c, h, w), "
            f"got {example_images.dtype} {example_images.shape}"
        )
    network = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    with torch.inference_mode():
        num_classes = network(torch.from_numpy(example_images)).shape[-1]
    float32 = np.dtype("float32")
    signature = mlflow.models.ModelSignature(
        inputs=mlflow.types.Schema([mlflow.types.TensorSpec(float32, (-1, *example_images.shape[1:]))]),
        outputs=mlflow.types.Schema([mlflow.types.TensorSpec(float32, (-1, num_classes))]),
    )
    try:
        mlflow.pytorch.save_model(
            network,
            str(folder),
            mlflow_model=mlflow.models.Model(
                artifact_path=logged_model.artifact_location,
                model_uuid=logged_model.model_id,
                model_id=logged_model.model_id,
                run_id=run_id,
                metadata=dict(metadata or {}),
            ),
            signature=signature,
            input_example=example_images,
            # To infer them takes most of the time of MLflow's own `log_model`: 12 of 17 s.
            pip_requirements=list(loading_requirements()),
            serialization_format="pt2",
        )
        with _no_pickles():
            saved = mlflow.pytorch.load_model(str(folder))
    except Exception as error:
        raise ExportError(f"{type(network).__name__} cannot be exported: {error}") from error
    _check_same(network, saved, example_images)


def archive_sha256(folder: Path) -> str:
    """SHA-256 of the program among the files of a model, in hexadecimal."""
    with open(folder / ARCHIVE, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_to_fetch(listed: "Iterable[FileInfo]") -> tuple[str, ...]:
    """Of a registered model's files the program and what describes it: no other is used.

    Raises `ExportError`: it is in another form than pt2, or too large, or its store does not tell how large.
    """
    sizes = {file.path: file.file_size for file in listed if not file.is_dir}
    if ARCHIVE in sizes:
        wanted = {name: most for name, most in MOST_BYTES.items() if name in sizes}
        for name, most in wanted.items():
            size = sizes[name]
            if size is None:
                raise ExportError(
                    f"its store does not tell the size of {name}; "
                    "download the model yourself and give that file"
                )
            if size > most:
                raise ExportError(f"its {name} has {size} bytes; at most {most} are fetched")
        return tuple(wanted)
    names = [Path(path) for path in sizes]
    pickled = [path.name for path in names if path.suffix in (".pth", ".pt", ".pkl", ".pickle")]
    what = f"the pickled flavour ({pickled[0]}), whose loading runs any code" if pickled else "no pt2 form"
    raise ExportError(
        f"it has {what}; where you trust it, log it again with mlflow.pytorch.log_model(..., "
        "serialization_format='pt2'), or save its state dict and give that file"
    )


def load_exported(folder: Path, sha256: str) -> "nn.Module":
    """The program of a registered model whose files were fetched into `folder`, in evaluation mode.

    A pt2 archive is code: torch unpickles parts of it and evaluates expressions of others. So its bytes
    are compared with those that were registered before anything looks into them, and none of the files
    beside it, which can name further code, is used. MLflow refuses what is not a tensor in a pickle, too.

    Raises `ExportError`.
    """
    with root_logger_kept():  # as above
        import mlflow.pytorch
    import torch

    try:
        with tempfile.TemporaryDirectory() as temporary, _no_pickles():
            own = Path(temporary)
            (own / ARCHIVE).parent.mkdir()
            shutil.copyfile(folder / ARCHIVE, own / ARCHIVE)
            if (found := archive_sha256(own)) != sha256:
                raise ExportError(
                    f"the SHA-256 of its {ARCHIVE} is {found[:16]}..., recorded was {sha256[:16]}...; "
                    "the file was changed since, and is not loaded"
                )
            with open(own / ARCHIVE, "rb") as file:
                check_zip(file)
            model = mlflow.models.Model()
            model.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__))
            model.save(str(own / "MLmodel"))
            network: torch.fx.GraphModule = mlflow.pytorch.load_model(str(own), map_location="cpu")
    except ExportError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(f"the registered files cannot be read: {why}") from error
    # What torch.export loads says that it is training, and raises where it is told otherwise.
    return torch.fx.GraphModule(network, network.graph).eval()


def _no_pickles() -> AbstractContextManager[None]:
    """Within it MLflow unpickles nothing but tensors."""
    return in_the_environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"})


def _check_same(network: "nn.Module", saved: "nn.Module", example_images: "np.ndarray") -> None:
    import torch

    for batch in CHECKED_BATCHES:
        images = torch.from_numpy(example_images).repeat(-(-batch // len(example_images)), 1, 1, 1)[:batch]
        try:
            with torch.inference_mode():
                expected, got = network(images), saved(images)
        except Exception as error:
            raise ExportError(f"the exported network does not take a batch of {batch}: {error}") from error
        if not torch.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
            worst = (got - expected).abs().max().item()
            raise ExportError(f"the exported network's logits differ by {worst:.3g} for a batch of {batch}")
