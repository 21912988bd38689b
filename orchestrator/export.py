"""`ekd export`: the averaged student as a file, checked against the network it was made from."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.experiment import ExperimentError
from orchestrator.registry.exported_model import CHECKED_BATCHES, TOLERANCE, ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

Format = Literal["pt2", "onnx", "state-dict"]


_INNER = "network."
"""What `Classifier` puts before the stock class's keys."""


@dataclass(frozen=True)
class Source:
    """A student to export, and what is known of where it comes from."""

    network: nn.Module
    """In evaluation mode; one that was exported before has no other."""
    image_shape: tuple[int, int, int]
    weights_sha256: str
    """Of the network's state dict, equal to what the registry or the manifest has."""
    where: str
    rebuild: str = ""
    """How to build the network that its state dict loads into, where no stock class does; for a person."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and gives what the network gives."""

    path: Path
    worst: float
    """Largest difference between its logits and the network's, over batches of 1, 2 and 7."""


def export_network(source: Source, form: Format, output: Path) -> Exported:
    """Write `source` to `output` and check it: the file is read back and asked for logits.

    `pt2`: `torch.export`, needs torch alone. `onnx`: images (batch, c, h, w) -> logits, any batch
    size. `state-dict`: the stock class's own keys, in safetensors form where the name ends with
    `.safetensors`, else `torch.save` of plain tensors. A pruned student has the keys, not the shapes.

    Raises:
        ExportError: it cannot be written in this form, what was written is another function, or the disk
            is full.
        ExperimentError: a library of the extra `export` is missing, or no file can be written there.
    """
    partial = _writable(output, ".pt2" if form == "pt2" else output.suffix)  # torch expects .pt2
    network = source.network.cpu().requires_grad_(False)
    try:
        answer = _FORMS[form](network, source.image_shape, partial)
        worst = _worst_difference(network, answer, source.image_shape)
        if not worst <= TOLERANCE:
            raise ExportError(f"the {form} file's logits differ by {worst:.3g} from the network's")
        os.replace(partial, output)
    except OSError as error:
        raise ExportError(
            f"--output {str(output)!r}: cannot be written: {error.strerror or error}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return Exported(output, worst)


def _writable(output: Path, suffix: str) -> Path:
    """An empty file beside `output`, to be renamed to it; raises `ExperimentError`."""
    try:
        str(output).encode()  # torch ends the process at a name that is not UTF-8
        if not output.name or (output.exists() and not output.is_file()):
            raise ExperimentError(f"--output {str(output)!r}: is not a file; name the file to write")
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f".{output.stem}.partial{suffix}")
        partial.touch()
    except (OSError, UnicodeEncodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a name that a file can have"
        raise ExperimentError(f"--output {str(output)!r}: cannot be written: {why}") from None
    return partial


def _worst_difference(
    network: nn.Module, answer: Callable[[Tensor], Tensor], image_shape: tuple[int, int, int]
) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, *image_shape, generator=generator)
        with torch.no_grad():
            expected = network(images)
        difference = (answer(images) - expected).abs() / expected.abs().clamp(min=1)
        worst = max(worst, difference.max().item())
    return worst


def _pt2(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    batch = torch.export.Dim("batch", min=1)
    content = io.BytesIO()  # torch ends the process where a file cannot take all it writes
    try:
        program = torch.export.export(network, (torch.rand(2, *shape),), dynamic_shapes=({0: batch},))
        torch.export.save(program, content)
    except Exception as error:
        raise ExportError(f"torch.export cannot save it: {' '.join(str(error).split())[:300]}") from error
    path.write_bytes(content.getbuffer())
    loaded: Any = torch.export.load(path).module()
    return lambda images: loaded(images).detach()


def _onnx(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ExperimentError(f"--format onnx needs {error.name}: pip install 'ekd[export]'") from None
    batch = torch.export.Dim("batch", min=1)
    try:
        torch.onnx.export(
            network,
            (torch.rand(2, *shape),),
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


def _state_dict(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Callable[[Tensor], Tensor]:
    """The inner network's state dict: the classifier's normalisation is no part of the stock class."""
    import copy

    import safetensors.torch
    import torch

    state = {
        name.removeprefix(_INNER): tensor.detach().clone() for name, tensor in network.state_dict().items()
    }
    if not all(name.startswith(_INNER) for name in network.state_dict()):
        raise ExportError("its parameters are not those of a classifier of this project")
    read: dict[str, Tensor]
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save(state))
        read = safetensors.torch.load_file(path)
    else:
        content = io.BytesIO()
        torch.save(state, content)
        path.write_bytes(content.getbuffer())
        read = torch.load(path, weights_only=True)
    again = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.fill_(float("nan"))  # so that what the file lacks is seen
    again.load_state_dict({_INNER + name: tensor for name, tensor in read.items()})
    return lambda images: again(images).detach()


_FORMS: dict[Format, Callable[[nn.Module, tuple[int, int, int], Path], Callable[[Tensor], Tensor]]] = {
    "pt2": _pt2,
    "onnx": _onnx,
    "state-dict": _state_dict,
}
