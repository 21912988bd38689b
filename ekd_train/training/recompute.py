"""Activation checkpointing: less memory for more time, and the same gradients."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ekd_train.models.member_network import MemberNetwork

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def recompute_activations(network: nn.Module) -> None:
    """Have each block of `network` keep its input alone, and compute again what its gradient needs, in place.

    Dropout draws the same the second time, and running statistics move once. Chen, Xu, Zhang, Guestrin:
    *Training Deep Nets with Sublinear Memory Cost* (2016).
    """
    for block in blocks(network):
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, network, block)
        )


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand in a row, have parts of their own and are not themselves a row."""
    for child in module.children():
        in_a_row = isinstance(module, _CONTAINERS)
        if in_a_row and not isinstance(child, _CONTAINERS) and any(child.children()):
            yield child
        else:
            yield from blocks(child)


def _contexts(
    network: nn.Module, block: nn.Module
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _again(network, block)


def _again(network: nn.Module, block: nn.Module) -> AbstractContextManager[None]:
    """As `block` was computed at the moment of this call, but for running statistics, which stay."""
    members = [module.present() for module in network.modules() if isinstance(module, MemberNetwork)]

    @contextmanager
    def again() -> Iterator[None]:
        # Others in their place, for what is put back in place would be of another version to autograd.
        statistics = [
            (module, name, buffer)
            for module in block.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        with ExitStack() as stack:
            for present in members:
                stack.enter_context(present())
            for module, name, buffer in statistics:
                setattr(module, name, buffer.clone())
            try:
                yield
            finally:
                for module, name, buffer in statistics:
                    setattr(module, name, buffer)

    return again()
