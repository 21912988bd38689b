"""State dicts in files, of a folder or of S3. Nothing is unpickled."""

import hashlib
import io
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import ValidationError

from ekd_train.persistence.bounded_json import MOST_BYTES, read_bounded_json
from ekd_train.persistence.bounded_tensors import parse_tensors, tensor_bytes
from ekd_train.persistence.bounded_zip import check_pickle, check_zip, entry_names
from ekd_train.regular_file import open_regular
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError
from orchestrator.pretrained.class_names import names_within
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.parts import part_of, state_dicts
from orchestrator.storage import MissingKey, open_storage

TORCH = (".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of files of `torch.save`."""
PROGRAM = (
    "it is an exported program, which is code: docs/teachers.md, Only an exported program, says how it "
    "teaches; or give the state dict of its network"
)
MOST_WEIGHT_BYTES = 16 << 30
"""Four thousand million float32 parameters; who starts a run needs several times as much memory."""


def from_file(uri: str, endpoint_url: str | None, patience_s: float) -> PretrainedNetwork:
    """The state dicts at a path or `s3://` URI, at `FILE#KEY` the one of that key or beginning of its names.

    With them go the names of classes beside them; what `FILE.json` of `ekd export` says goes before.

    Raises `ExperimentError`, or `StorageError` where S3 refuses or cannot be reached.
    """
    uri, key = _divided(uri)
    suffix = _suffix(uri)
    if "://" in uri and not uri.startswith("s3://"):
        raise ExperimentError(
            "weights are read from a path or s3:// alone; download them, and give that file"
        )
    if suffix not in (".safetensors", *TORCH):
        if suffix == ".pt2":
            raise ExperimentError(PROGRAM)
        raise ExperimentError(
            "no file of weights: write PATH.safetensors or PATH.pth, s3://BUCKET/KEY, "
            "torchvision:ENUM.ENTRY, timm:NAME, models:/NAME@ALIAS, models:/NAME/VERSION or run:RUN_ID/NAME"
        )
    data = _read(uri, endpoint_url, patience_s, MOST_WEIGHT_BYTES)
    if data is None:
        where = "" if uri.startswith("s3://") else f" in {os.getcwd()}, where the command was typed"
        raise ExperimentError(f"there is no such file{where * (not os.path.isabs(uri))}")
    content = _parsed(data, suffix, uri)
    beside = _described(_read(f"{uri}.json", endpoint_url, patience_s, MOST_BYTES))
    known = {"class_names": names_within(content)} | {key: v for key, v in beside.items() if v is not None}
    parts = state_dicts(content)
    if key:
        chosen = part_of(parts, key)
        # The bytes are of other parts too, which are other networks.
        sha256 = tensor_bytes({name: tensor.clone() for name, tensor in chosen.items()})[1]
        return PretrainedNetwork(chosen, sha256, key=key, **known)
    first, weights = next(iter(parts.items()))
    sha256 = hashlib.sha256(data).hexdigest()
    several = parts if len(parts) > 1 else {}
    return PretrainedNetwork(weights, sha256, parts=several, key=first, **known)


def _divided(uri: str) -> tuple[str, str]:
    """The file of `FILE#KEY`, and the key of a part of it; no key where the whole is the name of a file."""
    file, _, key = uri.rpartition("#")
    whole, part = _suffix(uri), _suffix(file)
    suffixes = (".safetensors", *TORCH)
    return (file, key) if part in suffixes and whole not in suffixes else (uri, "")


def _suffix(uri: str) -> str:
    """What a file is by its name; `.pth.tar`, as scripts of torch's first years call theirs, is no tar."""
    path = PurePosixPath(uri.lower())
    return PurePosixPath(path.stem).suffix if path.suffix == ".tar" else path.suffix


def _read(uri: str, endpoint_url: str | None, patience_s: float, most_bytes: int) -> bytes | None:
    if uri.startswith("s3://"):
        folder, _, key = uri.rpartition("/")
        try:
            return open_storage(folder, endpoint_url, patience_s=patience_s).read(key, most_bytes)
        except MissingKey:
            return None
        except ValueError as error:
            raise ExperimentError(str(error)) from None
    try:
        with open_regular(Path(uri).expanduser()) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise ExperimentError(f"{size} bytes, more than the {most_bytes} that it may have")
            return file.read(size)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ExperimentError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parsed(data: bytes, suffix: str, uri: str) -> Any:
    try:
        if suffix == ".safetensors":
            return parse_tensors(data)
        if data.startswith(b"PK"):  # torch's format before 2020 is no archive
            _refuse_programs(data)  # which pack their code, as no state dict does
            check_zip(io.BytesIO(data))
        check_pickle(io.BytesIO(data))
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ExperimentError:
        raise
    except pickle.UnpicklingError:
        raise ExperimentError(
            "holds objects besides tensors, whose unpickling could run any code; where you trust it, "
            "save its state dict alone: torch.save(network.state_dict(), 'weights.pth')"
        ) from None
    except Exception as error:  # both raise what they like
        raise ExperimentError(f"damaged or no {suffix} file: {_line(error)}") from None


def _refuse_programs(data: bytes) -> None:
    """Raise `ExperimentError` if an archive of torch's is one of those that hold code."""
    names = {PurePosixPath(name).name for name in entry_names(io.BytesIO(data))}
    if "constants.pkl" in names:
        raise ExperimentError(
            "it is TorchScript, which is code; where you trust it, save its state dict alone: "
            "torch.save(torch.jit.load('a.pt').state_dict(), 'weights.pth')"
        )
    if names & {"serialized_exported_program.json", "archive_format"}:
        raise ExperimentError(PROGRAM)


def _described(beside: bytes | None) -> dict[str, Any]:
    """Fields of `PretrainedNetwork`, of what `ekd export --format state-dict` writes beside its file."""
    if beside is None:
        return {}
    try:
        content = read_bounded_json(beside)
        build = content["build_model"]
        known = {name: build[name] for name in Architecture.model_fields if name in build}
        images = {name: known.pop(name, None) for name in ("mean", "std", "image_size")}
        names = content.get("class_names")
        return {
            "architecture": Architecture.model_validate(known),
            "mean": tuple(images["mean"]) if images["mean"] else None,
            "std": tuple(images["std"]) if images["std"] else None,
            "image_size": images["image_size"],
            "class_names": tuple(map(str, names)) if names else None,
        }
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
