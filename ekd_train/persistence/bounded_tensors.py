"""Tensors as safetensors, which unpickle nothing, and how many bytes they may take."""

import hashlib
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

MOST_HEADER_BYTES = 16 << 20
"""Of a file: some 100 for a tensor, which becomes a larger object."""


def room_for(tensors: Mapping[str, Tensor], copies: int = 1) -> int:
    """Bytes that `copies` of such tensors take at most, stored: 8 for a value, 1,024 to describe a tensor."""
    return copies * sum(8 * tensor.numel() + 1024 for tensor in tensors.values())


def tensor_bytes(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """A safetensors file, and its SHA-256 in hexadecimal."""
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    return data, hashlib.sha256(data).hexdigest()


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `ValueError`, and whatever that library does."""
    if (header := int.from_bytes(data[:8], "little")) > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {header} bytes, more than {MOST_HEADER_BYTES}")
    return safetensors.torch.load(data)
