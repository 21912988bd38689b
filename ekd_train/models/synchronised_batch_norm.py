"""Batch normalisation over the global batch of all workers, on gloo (CPU) and NCCL alike.

torch's own SyncBatchNorm is for GPUs only.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class _Synchronised(_BatchNorm):
    """A BatchNorm whose statistics in training are over the batches of all workers.

    Has the parameters, buffers and state-dict keys of the plain BatchNorm, and is that BatchNorm in
    evaluation mode and where there is one worker. Workers' shares may differ in size, and be
    empty. In training all workers must run the same forwards and backwards in the same order.

    With losses L_w that add up to L, a worker's input gradient is that of L; gradients of weight
    and bias are its own share of L's, as with any other layer, for the data-parallel wrapper to
    combine.
    """

    group: dist.ProcessGroup | None = None
    """Of this process, not of a module, because process groups cannot be copied: see `synchronise_among`."""

    def forward(self, x: Tensor) -> Tensor:
        """`x (b, channel, ...)`, normalised."""
        if not (
            self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size(_Synchronised.group) > 1
        ):
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance, count = _NormaliseTogether.apply(x, self.weight, self.bias, self.eps)
        self._track(mean, variance * (count / (count - 1).clamp(min=1)))
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # As in torch: without a momentum the running values are plain means over the batches seen.
        tracked = self.num_batches_tracked.to(self.running_mean.dtype)
        fraction = 1 / tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), fraction)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), fraction)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """`BatchNorm1d` over all workers."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """`BatchNorm2d` over all workers."""


_SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
}
_PLAIN = {synchronised: plain for plain, synchronised in _SYNCHRONISED.items()}


def synchronise_among(group: dist.ProcessGroup | None) -> None:
    """From here on, all synchronised BatchNorms of this process share with the workers of `group`.

    None, as at first: with all workers.
    """
    _Synchronised.group = group


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Within it, synchronised BatchNorms of `module` normalise by running statistics: workers do not meet."""
    meeting = [part for part in module.modules() if isinstance(part, _Synchronised) and part.training]
    for part in meeting:
        part.eval()
    try:
        yield
    finally:
        for part in meeting:
            part.train()


def to_synchronised_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` whose BatchNorms share their batch statistics among the workers.

    Raises `TypeError` for a kind of BatchNorm other than `BatchNorm1d` and `BatchNorm2d`, which
    would silently stay each worker's own.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and type(part) not in (*_SYNCHRONISED, *_PLAIN):
            raise TypeError(f"cannot synchronise {name!r}: {type(part).__name__} is not understood")
    return _with_classes(module, _SYNCHRONISED)


def from_synchronised_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` with ordinary BatchNorms; undoes `to_synchronised_batch_norm`."""
    return _with_classes(module, _PLAIN)


def _with_classes(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    # Both kinds hold exactly the same state and differ in what forward does: the class is the change.
    changed = copy.deepcopy(module)
    for part in changed.modules():
        part.__class__ = classes.get(type(part), type(part))
    return changed


class _NormaliseTogether(torch.autograd.Function):
    """Normalised activations, and the mean, the biased variance and the count of the global batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _global_moments(x)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        if len(x):
            # As if the moments were constants: one kernel gives `scale * grad` and this worker's
            # sums of `grad * normalised` and `grad`.
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        else:  # which that kernel does not survive
            grad_x, grad_weight, grad_bias = grad, torch.zeros_like(mean), torch.zeros_like(mean)
        total = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(total, group=_Synchronised.group)
        mean_product, mean_grad = total / count
        # Then what the moments pass on: `grad_x -= scale * (mean_grad + normalised * mean_product)`.
        inverse_std = torch.rsqrt(variance + ctx.eps)
        scale = inverse_std if weight is None else inverse_std * weight
        slope = scale * inverse_std * mean_product
        offset = scale * mean_grad - slope * mean
        shape = [1, -1, *[1] * (x.dim() - 2)]
        slope, offset = slope.view(shape), offset.view(shape)
        if x.dtype != slope.dtype:
            # Where a mean is large beside its deviation, `offset` and `x * slope` nearly cancel.
            grad_x, x = grad.to(slope.dtype) * scale.view(shape), x.to(slope.dtype)
        grad_x = torch.addcmul(grad_x - offset, x, slope, value=-1).to(grad.dtype)
        if weight is None:
            return grad_x, None, None, None
        return grad_x, grad_weight, grad_bias, None


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel, and the count, over all workers.

    Workers exchange means and squared deviations from them, which add up without the cancellation
    of sums of squares (Chan, Golub and LeVeque 1983, eq. 2.1).
    """
    channels = x.shape[1]
    count = x.numel() // channels
    wide = x if x.dtype == torch.float64 else x.float()
    if count:
        mean, variance = torch.ops.aten.batch_norm_update_stats(wide, None, None, 0.0)  # faster than var_mean
    else:
        mean = variance = wide.new_zeros(channels)
    own = torch.cat([mean, variance * count, mean.new_full((1,), count)])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(_Synchronised.group))]
    dist.all_gather(gathered, own, group=_Synchronised.group)
    means, deviations, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    deviation = (deviations + counts * (means - mean).square()).sum(0)
    return mean, deviation / total, total
