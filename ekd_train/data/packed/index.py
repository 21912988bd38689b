"""What a packed folder says of its images, and what is checked of it before it is believed."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ekd_train.data.errors import DataError

INDEX = "index.safetensors"

DIGEST_BYTES = 16
"""Of the BLAKE2b digest of an image's encoded bytes."""


@dataclass(frozen=True, eq=False)
class PackIndex:
    """Of n packed images, in the order of the listing: train, then validation and test where there are."""

    folder: Path
    digests: np.ndarray
    """uint8 `(n, 16)`: of each image's encoded bytes."""
    shards: np.ndarray
    """int64 `(k + 1,)`: where each of the k shards begins, and n."""
    grey: bool
    """Whether all images are grey."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.digests)


def shard_file(folder: Path, number: int) -> Path:
    """The file of shard `number`."""
    return folder / f"shard-{number:05d}.array_record"


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], findings: tuple[str, ...] = ()) -> None:
    """Write `arrays` whole or not at all."""
    with new_file(file) as pending:
        save_file(dict(arrays), pending, metadata={"findings": json.dumps(findings)})


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file` if the block ends well: under a name that nobody could guess, and so
    have made a link of."""
    pending = file.with_name(f"{secrets.token_hex(8)}.pending")
    os.close(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield pending
        os.replace(pending, file)
    finally:
        pending.unlink(missing_ok=True)


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What `write_arrays` wrote. Raises `DataError` for anything else."""
    try:
        with safe_open(file, framework="numpy") as found:
            findings = json.loads((found.metadata() or {}).get("findings", "[]"))
            arrays = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (it is no mapping)
        if not isinstance(findings, list):
            raise ValueError("its findings are no list")
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise damaged(file, error) from None
    return arrays, tuple(str(finding)[:1000] for finding in findings[:1000])


def read_index(folder: Path, images: int | None = None) -> PackIndex:
    """The index of a packed folder; `images`: how many the listing has, if it is at hand.

    Raises `DataError` if it is damaged, or of another number of images.
    """
    file = folder / INDEX
    arrays, findings = read_arrays(file)
    try:
        digests, shards = arrays["digests"], arrays["shards"]
        mean, std = arrays["mean"], arrays["std"]
        count = len(digests) if images is None else images
        _check(digests.dtype == np.uint8 and digests.shape == (count, DIGEST_BYTES) and count > 0, "digests")
        _check(shards.dtype == np.int64 and shards.ndim == 1 and len(shards) > 1, "shards")
        _check(shards[0] == 0 and shards[-1] == count and bool((np.diff(shards) > 0).all()), "shards")
        _check(mean.dtype == std.dtype == np.float64 and mean.shape == std.shape, "statistics")
        _check(mean.shape in {(1,), (3,)}, "statistics")
        _check(bool((np.isfinite(mean) & np.isfinite(std) & (std > 0)).all()), "statistics")
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(file, error) from None
    return PackIndex(
        folder, digests, shards, len(mean) == 1, tuple(mean.tolist()), tuple(std.tolist()), findings
    )


def _check(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"its {what} are not of this data set")


def damaged(file: Path, error: object) -> DataError:
    """The error of a packed file that is not what was written."""
    return DataError(file, f"is damaged ({error})", f"remove {file.parent}: it is packed again")


NAMES = "names.safetensors"


def write_names(folder: Path, names: list[str]) -> None:
    """Keep what messages call the images."""
    text = "\0".join(names).encode(errors="surrogateescape")
    write_arrays(folder / NAMES, {"text": np.frombuffer(text, dtype=np.uint8)})


def name_of(folder: Path, row: int) -> str:
    """What a message calls image `row`. Raises `DataError`."""
    arrays, _ = read_arrays(folder / NAMES)
    try:
        return arrays["text"].tobytes().decode(errors="replace").split("\0")[row]
    except (KeyError, IndexError) as error:
        raise damaged(folder / NAMES, error) from None
