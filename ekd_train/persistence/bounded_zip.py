"""Archives of torch (`.pt2`, `.pth`), looked at before torch opens them: small ones may grow."""

import pickletools
from typing import BinaryIO, cast
from zipfile import ZipFile

MOST_ENTRIES = 10_000
"""Torch writes one per tensor, and a few; the largest networks have some thousands."""
MOST_DIRECTORY_BYTES = 400 * MOST_ENTRIES
"""Of the list of entries, which is read as a whole: 46 for each, and a name."""

PICKLES_BEFORE_2020 = 3
"""Of torch's former format, before its object: a number, a version, what machine wrote it; the object is the
next, and after it come the names of its storages and their bytes."""


def entry_names(file: BinaryIO) -> list[str]:
    """What an archive holds, of which nothing is unpacked. Raises as `check_zip`."""
    with ZipFile(cast(BinaryIO, _Directory(file))) as archive:
        names = archive.namelist()
    file.seek(0)
    return names


def check_zip(file: BinaryIO) -> None:
    """Whether an archive unpacks to no more bytes than it has: torch packs without compression.

    Raises `ValueError`, or `zipfile.BadZipFile` for what is none.
    """
    with ZipFile(cast(BinaryIO, _Directory(file))) as archive:
        entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{len(entries)} entries, more than {MOST_ENTRIES}")
    unpacked, size = sum(entry.file_size for entry in entries), file.seek(0, 2)
    file.seek(0)
    if unpacked > size:
        raise ValueError(f"its {size} bytes unpack to {unpacked}; torch writes none that is compressed")


def check_pickle(file: BinaryIO) -> None:
    """Whether a file of `torch.save` asks for memory that is not in it.

    Torch's reader of tensors alone makes a `bytearray` of any length that a file names. Raises `ValueError`,
    and whatever `zipfile` and `pickletools` do.
    """
    if file.read(2) == b"PK":
        with ZipFile(file) as archive:
            pickles = [archive.open(name) for name in archive.namelist() if name.lower().endswith(".pkl")]
            for opened in pickles:
                _refuse_bytearrays(cast(BinaryIO, opened))
    else:
        file.seek(0)
        for _ in range(PICKLES_BEFORE_2020 + 1):
            _refuse_bytearrays(file)
    file.seek(0)


def _refuse_bytearrays(file: BinaryIO) -> None:
    for opcode, argument, _ in pickletools.genops(file):
        if isinstance(argument, str) and argument.split()[-1:] == ["bytearray"]:
            raise ValueError(f"it makes a bytearray ({opcode.name}), which no tensor needs")


class _Directory:
    """A file of which no more is read at once than the list of an archive's entries may be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(MOST_DIRECTORY_BYTES + 1 if size < 0 else min(size, MOST_DIRECTORY_BYTES + 1))
        if len(data) > MOST_DIRECTORY_BYTES:
            raise ValueError(f"the list of its entries is longer than {MOST_DIRECTORY_BYTES} bytes")
        return data
