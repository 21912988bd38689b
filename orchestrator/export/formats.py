"""`ekd export`: the averaged student as a file, checked against the network it was made from."""

import io
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from ekd_train.data.description import ImageSpec
from ekd_train.models import build_model
from ekd_train.models.build_network import build_arguments
from ekd_train.settings import Architecture
from orchestrator.errors import ExperimentError
from orchestrator.registry.exported_model import CHECKED_BATCHES, TOLERANCE, ExportError
from orchestrator.registry.provenance import ARCHITECTURE_TAG

Format = Literal["pt2", "onnx", "state-dict"]


_FORMAT_OF: Mapping[str, Format] = {".onnx": "onnx", ".safetensors": "state-dict"}
"""Suffixes of which every program expects one format."""


_INNER = "network."
"""What `Classifier` puts before the stock class's keys."""


@dataclass(frozen=True)
class Source:
    """A student to export, and what is known of where it comes from."""

    network: nn.Module
    """In evaluation mode; one that was exported before has no other."""
    weights_sha256: str
    """Of the network's state dict, equal to what the registry or the manifest has."""
    where: str
    architecture: Architecture | None
    """The student's; None: not recorded."""
    spec: ImageSpec
    """Of the images that it takes, and its classes."""
    class_names: Sequence[str] | None = None
    """In the order of the logits; None: not recorded."""
    archive_sha256: str = ""
    """Of the file that a registered one was read from."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and gives what the network gives."""

    path: Path
    worst: float
    """Largest difference between its logits and the network's, over batches of 1, 2 and 7."""
    sidecar: Path
    """JSON: the classes in logit order, the images' shape, and which network a `state-dict` fits."""


def format_of(output: Path, wanted: Format | None) -> Format:
    """The format to write: `wanted`, or what the name of `output` says, or pt2.

    Raises `ExperimentError` where they contradict each other.

    >>> format_of(Path("student.onnx"), None), format_of(Path("student.pt"), None)
    ('onnx', 'pt2')
    """
    named = _FORMAT_OF.get(output.suffix.lower())
    if wanted and named and wanted != named:
        raise ExperimentError(
            f"--output {str(output)!r}: is the name of {named}, not of --format {wanted}; change one of them"
        )
    return wanted or named or "pt2"


def sidecar_of(output: Path) -> Path:
    """The JSON file that is written beside `output`.

    >>> sidecar_of(Path("student.pt2")).name
    'student.pt2.json'
    """
    return Path(f"{output}.json")


def export_network(source: Source, form: Format, output: Path) -> Exported:
    """Write `source` to `output` and check it: the file is read back and asked for logits.

    `pt2`: `torch.export`, needs torch alone. `onnx`: images (batch, c, h, w) -> logits, any batch
    size. `state-dict`: the stock class's own keys, in safetensors form where the name ends with
    `.safetensors`, else `torch.save` of plain tensors.

    Beside it `PATH.json` has the class names in the order of the logits and the shape of an image; of a
    `state-dict` also the arguments of `ekd_train.models.build_model` that build the network, the
    normalisation among them.

    Raises `ExportError`: it cannot be written in this form, what was written is another function, or the disk
    is full; `ExperimentError`: a library of the extra `export` is missing, or no file can be written there.
    """
    partial = _writable(output, ".pt2" if form == "pt2" else output.suffix)  # torch expects .pt2
    sidecar = sidecar_of(output)
    beside = _writable(sidecar, ".json")
    source.network.cpu().requires_grad_(False)
    try:
        answer = _FORMS[form](source, partial)
        worst = _worst_difference(source, answer)
        if not worst <= TOLERANCE:
            raise ExportError(f"the {form} file's logits differ by {worst:.3g} from the network's")
        beside.write_bytes(_sidecar(source, form))
        os.replace(beside, sidecar)
        os.replace(partial, output)
    except OSError as error:
        raise ExportError(
            f"--output {str(output)!r}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
    return Exported(output, worst, sidecar)


def _writable(output: Path, suffix: str) -> Path:
    """An empty file beside `output`, to be renamed to it; raises `ExperimentError`."""
    try:
        str(output).encode()  # torch ends the process at a name that is not UTF-8
        if not output.name or (output.exists() and not output.is_file()):
            raise ExperimentError(f"--output {str(output)!r}: is not a file; name the file to write")
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".ekd-{secrets.token_hex(8)}{suffix}")  # nobody could plant a link there
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except (OSError, UnicodeEncodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a name that a file can have"
        raise ExperimentError(f"--output {str(output)!r}: cannot be written: {why}") from None
    return partial


def _worst_difference(source: Source, answer: Callable[[Tensor], Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, *source.spec.image_shape, generator=generator)
        with torch.no_grad():
            expected = source.network(images)
        difference = (answer(images) - expected).abs() / expected.abs().clamp(min=1)
        worst = max(worst, difference.max().item())
    return worst


def _pt2(source: Source, path: Path) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch", min=1)
    content = io.BytesIO()  # torch ends the process where a file cannot take all it writes
    try:
        images = torch.rand(2, *source.spec.image_shape)
        program = torch.export.export(source.network, (images,), dynamic_shapes=({0: batch},))
        torch.export.save(program, content)
    except Exception as error:
        raise ExportError(f"torch.export cannot save it: {' '.join(str(error).split())[:300]}") from error
    path.write_bytes(content.getbuffer())
    loaded: Any = torch.export.load(path).module()
    return lambda images: loaded(images).detach()


def _onnx(source: Source, path: Path) -> Callable[[Tensor], Tensor]:
    try:  # of an extra, and seconds to import
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ExperimentError(f"--format onnx needs {error.name}: pip install 'ekd[export]'") from None
    batch = torch.export.Dim("batch", min=1)
    try:
        torch.onnx.export(
            source.network,
            (torch.rand(2, *source.spec.image_shape),),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except OSError:
        raise
    except Exception as error:
        raise ExportError(f"torch.onnx cannot save it: {' '.join(str(error).split())[:300]}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _state_dict(source: Source, path: Path) -> Callable[[Tensor], Tensor]:
    """The inner network's state dict, read back into a network that is built from the sidecar's arguments."""
    arguments = _construction(source)
    stored = source.network.state_dict()
    if not all(name.startswith(_INNER) for name in stored):
        raise ExportError("its parameters are not those of a classifier of this project")
    state = {name.removeprefix(_INNER): tensor.detach().clone() for name, tensor in stored.items()}
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save(state))
    else:
        content = io.BytesIO()
        torch.save(state, content)
        path.write_bytes(content.getbuffer())
    try:
        network = build_model(**arguments)
    except ValueError as error:
        raise ExperimentError(f"--format state-dict: {error}") from None
    read: dict[str, Tensor] = (
        safetensors.torch.load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, weights_only=True)
    )
    try:
        network.network.load_state_dict(read)
    except RuntimeError as error:
        raise ExportError(
            f"its weights do not fit the network of its architecture: {' '.join(str(error).split())[:300]}"
        ) from error
    return network.eval().requires_grad_(False)


def _construction(source: Source) -> dict[str, Any]:
    """The arguments of `ekd_train.models.build_model` that build the student."""
    if source.architecture is None:
        raise ExperimentError(
            f"--format state-dict: {source.where} has no tag {ARCHITECTURE_TAG} to say which network its "
            "weights fit; export the run that made it (`ekd export RUN_ID`), or to pt2 or onnx"
        )
    return build_arguments(source.architecture, source.spec)


def _sidecar(source: Source, form: Format) -> bytes:
    content = {
        "class_names": source.class_names,
        "image_shape": source.spec.image_shape,
        "weights_sha256": source.weights_sha256,
        **({"build_model": _construction(source)} if form == "state-dict" else {}),
    }
    return json.dumps(content, indent=1).encode()


_FORMS: dict[Format, Callable[[Source, Path], Callable[[Tensor], Tensor]]] = {
    "pt2": _pt2,
    "onnx": _onnx,
    "state-dict": _state_dict,
}
