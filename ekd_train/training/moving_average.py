"""The moving average of a network along its training."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(nn.Module):
    """`module`: weights and buffers of a network, averaged along its training.

    The newest counts 1 - decay; without a decay all count alike, and what counts things is the newest.

    As torch's `AveragedModel` with `get_ema_multi_avg_fn` and `use_buffers`, whose state it has and loads.
    That one copies its counter to the device in every step, for which the host waits.
    """

    n_averaged: Tensor
    """Updates so far, int64; of the host, wherever the network is."""

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        super().__init__()
        self.module = copy.deepcopy(network)
        self._average = None if decay is None else get_ema_multi_avg_fn(decay)
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64, device="cpu"))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move toward `network`, which is like the one this was made of; the first time, become it."""
        mine, theirs = ([*each.parameters(), *each.buffers()] for each in (self.module, network))
        if self.n_averaged == 0:
            for own, new in zip(mine, theirs, strict=True):
                own.copy_(new)
        elif self._average is None:
            share = 1 / (int(self.n_averaged) + 1)
            for own, new in zip(mine, theirs, strict=True):
                own.lerp_(new, share) if own.is_floating_point() else own.copy_(new)
        else:
            for dtype in {tensor.dtype for tensor in mine}:
                pairs = [pair for pair in zip(mine, theirs, strict=True) if pair[0].dtype == dtype]
                own_of_dtype, new_of_dtype = zip(*pairs, strict=True)
                self._average(own_of_dtype, new_of_dtype, None)
        self.n_averaged += 1
