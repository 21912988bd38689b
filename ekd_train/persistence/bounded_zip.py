"""Archives of torch (`.pt2`, `.pth`), looked at before torch opens them: small ones may grow."""

from typing import BinaryIO
from zipfile import ZipFile

MOST_ENTRIES = 10_000
"""Torch writes one per tensor, and a few; the largest networks have some thousands."""


def check_zip(file: BinaryIO) -> None:
    """Whether an archive unpacks to no more bytes than it has: torch packs without compression.

    Raises `ValueError`, or `zipfile.BadZipFile` for what is none.
    """
    with ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{len(entries)} entries, more than {MOST_ENTRIES}")
    unpacked, size = sum(entry.file_size for entry in entries), file.seek(0, 2)
    file.seek(0)
    if unpacked > size:
        raise ValueError(f"its {size} bytes unpack to {unpacked}; torch writes none that is compressed")
