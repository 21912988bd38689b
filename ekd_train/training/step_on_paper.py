"""One step of a training run on torch's meta device, where tensors have shapes and no values.

What it counts holds for a GPU: which operators are called, how much memory is taken at most at once, and
where the host would wait. It takes a second or two, whatever the size of the images and the batch.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from ekd_train.data.description import ImageSpec
from ekd_train.data.tensors import Images, TrainingData
from ekd_train.distributed import Workers
from ekd_train.models.build_network import build_network
from ekd_train.models.teachers import Teachers
from ekd_train.settings import TrainingRun
from ekd_train.training.batches import Batches
from ekd_train.training.step import Step, build_step

META = torch.device("meta")


@dataclass(frozen=True)
class StepCost:
    """What one step takes of the device that makes it."""

    operators: int
    """Calls of torch's operators from the draw to the gradients, views included, the optimiser's own not."""
    peak_bytes: int
    """Of all tensors at most at once: weights, gradients, momenta, maps, the teachers and the batch."""
    lasting_bytes: int
    """What of that is there between steps."""
    gradient_bytes: int
    """Of the gradients of all parameters."""
    waits: Mapping[str, int]
    """How often the host would wait for a GPU, by what it would wait in; empty if it never does."""
    without_gradient: tuple[str, ...]
    """Trainable parameters that the step left without one."""


def step_on_paper(run: TrainingRun, spec: ImageSpec, *, images: int) -> StepCost:
    """Make one step of `run` on `images` images, as a worker of a long-running training would.

    `run.training.speed.precision` is float32 or bfloat16; auto counts as bfloat16.

    Raises `RuntimeError` where a value is read, which a GPU would have to compute first, or where tensors of
    the host and the device meet; what `build_step` raises.
    """
    in_bfloat16 = run.training.speed.precision != "float32"
    if in_bfloat16 and run.training.speed.checkpoint_activations:
        raise RuntimeError("what is computed again for gradients can be counted in float32 only")
    run = _with_precision(run, images)
    with META:
        teachers = Teachers([build_network(each, spec) for each in run.teachers]) if run.teachers else None
        batch = Images(
            torch.empty(images, *spec.image_shape, dtype=torch.uint8), torch.empty(images, dtype=torch.int64)
        )
        data, workers = TrainingData(batch, batch, spec), Workers(device=META)
        step = build_step(run, data, workers, teachers, None)
    batches = Batches(run, data, workers, teachers, None)
    lasting = [module for module in (step.trainee, step.ema, teachers) if module is not None]
    meter = _Meter()
    _set_up_optimiser(step, meter)
    for tensor in _tensors(lasting, step.optimiser):
        meter.hold(tensor)
    kept = meter.bytes
    with meter, _Calls(meter.waits, in_bfloat16=in_bfloat16):
        step(*batches.parts(0, torch.arange(images)))
    learning = {name: p for name, p in step.trainee.named_parameters() if p.requires_grad}
    return StepCost(
        operators=meter.operators,
        peak_bytes=meter.peak_bytes,
        lasting_bytes=kept,
        gradient_bytes=sum(p.grad.nbytes for p in learning.values() if p.grad is not None),
        waits=dict(meter.waits),
        without_gradient=tuple(name for name, p in learning.items() if p.grad is None),
    )


def _with_precision(run: TrainingRun, images: int) -> TrainingRun:
    """`run` of batches of `images`, without torch's autocast, which does not know the meta device."""
    speed = run.training.speed.model_copy(update={"precision": "float32", "cache_teachers": False})
    training = run.training.model_copy(update={"speed": speed, "batch_size": images})
    return run.model_copy(update={"training": training})


def _set_up_optimiser(step: Step, meter: "_Meter") -> None:
    """Make its state, as a first step does, and leave it out of what `meter` counts: fused, it is one
    operator that needs no memory, but not on this device."""
    optimiser = step.optimiser
    for group in optimiser.param_groups:
        group["fused"] = False
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    optimiser.register_step_pre_hook(lambda *_: meter.pause(True))
    optimiser.register_step_post_hook(lambda *_: meter.pause(False))


def _tensors(modules: Sequence[nn.Module], optimiser: torch.optim.Optimizer) -> list[Tensor]:
    of_modules = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    state: Any = optimiser.state
    return [*of_modules, *(t for t in tree_iter(list(state.values())) if isinstance(t, Tensor))]


class _Meter(TorchDispatchMode):
    """Counts operators, and the bytes of tensors on the device that somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.bytes = self.peak_bytes = 0
        self.waits: Counter[str] = Counter()
        self._held: set[int] = set()
        self._paused = False

    def pause(self, paused: bool) -> None:
        """Count nothing until told otherwise."""
        self._paused = paused

    def hold(self, tensor: Tensor) -> None:
        """Count the memory that `tensor` lies in, once, until nothing refers to it any more."""
        storage = tensor.untyped_storage()
        if (key := id(storage)) in self._held:
            return
        self._held.add(key)
        self.bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.bytes -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self._paused:
            return out
        made = [t for t in tree_iter(out) if isinstance(t, Tensor)]
        # One number of the host's is read there and passed on with the call.
        read = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor) and (t.dim() or t.is_meta)]
        on_device = any(t.is_meta for t in (*made, *read))
        if not on_device:  # the host's own draws
            return out
        self.operators += 1
        for tensor in made:
            if tensor.is_meta:
                self.hold(tensor)
        met = not all(t.is_meta for t in (*made, *read))
        if met and not kwargs.get("non_blocking"):
            self.waits[str(func)] += 1
        return out


_FROM_PYTHON = frozenset({torch.tensor, torch.as_tensor, Tensor.new_tensor})
"""What copies values of Python's to the device, and waits until they are there."""

_INDEXING = frozenset({Tensor.__getitem__, Tensor.__setitem__})

_COMPUTED_IN_BFLOAT16: frozenset[Callable[..., Any]] = frozenset(
    {
        *(F.conv1d, F.conv2d, F.conv3d),
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        *(F.linear, F.scaled_dot_product_attention, F.multi_head_attention_forward),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
    }
)
"""What autocast computes in the lower precision, as far as classifiers use it
(https://docs.pytorch.org/docs/stable/amp.html)."""


class _Calls(TorchFunctionMode):
    """Sees what the operators below no longer show: lists of Python's, and where autocast would convert.

    torch's own autocast does not know the meta device. As it does, this converts trainable weights once.
    """

    def __init__(self, waits: Counter[str], *, in_bfloat16: bool) -> None:
        super().__init__()
        self._waits, self._in_bfloat16 = waits, in_bfloat16
        self._weights: dict[tuple[int, bool], Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._in_bfloat16 and func in _COMPUTED_IN_BFLOAT16:
            args, kwargs = tree_map_only(Tensor, self._converted, (tuple(args), kwargs))
        out = func(*args, **kwargs)
        by_list = func in _INDEXING and args[0].is_meta and _has_list(args[1])
        if by_list or (func in _FROM_PYTHON and out.is_meta):
            self._waits[f"{func.__name__} of a list"] += 1
        return out

    def _converted(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad):
            return tensor.bfloat16()
        key = id(tensor), torch.is_grad_enabled()
        if key not in self._weights:
            self._weights[key] = tensor.bfloat16()
        return self._weights[key]


def _has_list(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) for part in parts)
