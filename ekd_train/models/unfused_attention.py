"""torch's encoder layers without their fused form."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Fused, `nn.TransformerEncoderLayer` reads the weights of its parts past their forwards: no member is
    known there, and nothing is counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
