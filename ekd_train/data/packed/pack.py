"""Packing the images of a listing: in parallel, and going on where an earlier try was interrupted."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np

from ekd_train.data.dataset import channel_statistics
from ekd_train.data.errors import DataError
from ekd_train.data.image_files import Encoded, Listing
from ekd_train.data.packed.index import INDEX, read_arrays, shard_file, write_arrays, write_names
from ekd_train.data.packed.records import digest_of, records_in, write_records
from ekd_train.data.pixels import (
    GREY_MODES,
    MOST_ENCODED_BYTES,
    decode_whole,
    header,
    may_be_cut,
    names_in_warnings,
    pixels,
    shortened,
)
from ekd_train.data.user_cache import cache_folder, locked
from ekd_train.settings import DataSettings

FORMAT = 1
"""Changes when the same listing is packed otherwise."""

FEWEST_A_SHARD, MOST_SHARDS = 1024, 256
"""Images, and how many shards at most: each process keeps all of them open."""

STATISTICS_IMAGES, STATISTICS_SIZE = 1024, 224
"""Mean and standard deviation are those of so many training images, evenly spaced, at that size [ours]:
a tenth of a grey level from those of all, and nothing else would have to be decoded."""


def packed_folder(listing: Listing, settings: DataSettings) -> tuple[Path, int]:
    """Where the pack of a listing is, or would be, in the user's cache; the bytes of its files."""
    stamps = {split: files.stamp() for split, files in listing.splits.items()}
    sizes = {split: len(files.names) for split, files in listing.splits.items()}
    what = [FORMAT, {split: stamp for split, (stamp, _) in stamps.items()}, sizes]
    how = [settings.pack_short_side, settings.background, settings.max_image_pixels]
    key = hashlib.sha256(json.dumps([what, how]).encode()).hexdigest()[:24]
    return cache_folder("packed") / key, sum(size for _, size in stamps.values())


def pack(
    listing: Listing,
    settings: DataSettings,
    folder: Path,
    progress: Callable[[int, int], None],
    a_shard: int = FEWEST_A_SHARD,
) -> None:
    """Pack a listing into `folder`, which is there when all is done; threads write a shard each.

    What an interrupted call has written of whole shards is used. `progress` is told how many images of how
    many are packed; `a_shard`: images of one, at least.

    Raises `DataError` for a file that is no image or too large, or where the disk is full or not to be
    written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if not (folder / INDEX).exists():
                _pack(listing, settings, folder, progress, a_shard)
    except OSError as error:
        raise DataError(
            folder, f"cannot be written ({error.strerror})", "free some space, or set XDG_CACHE_HOME"
        ) from error


def _pack(
    listing: Listing,
    settings: DataSettings,
    folder: Path,
    progress: Callable[[int, int], None],
    a_shard: int,
) -> None:
    images = [files.image(row) for files in listing.splits.values() for row in range(len(files.names))]
    a_shard = max(a_shard, -(-len(images) // MOST_SHARDS))
    shards = [*range(0, len(images), a_shard), len(images)]
    partial = folder.with_suffix(".part")
    partial.mkdir(exist_ok=True)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    done = 0
    try:
        futures = {
            pool.submit(_write_shard, images[start:stop], settings, partial, number): stop - start
            for number, (start, stop) in enumerate(pairwise(shards))
        }
        for future in as_completed(futures):
            future.result()
            done += futures[future]
            progress(done, len(images))
    finally:
        pool.shutdown(cancel_futures=True)  # shards under way come to their end
    parts = [read_arrays(_part(partial, number)) for number in range(len(shards) - 1)]
    digests = np.concatenate([arrays["digests"] for arrays, _ in parts])
    grey = all(bool(arrays["grey"].all()) for arrays, _ in parts)
    findings = tuple(finding for _, found in parts for finding in found)
    write_names(partial, [image.name for image in images])
    arrays = {"digests": digests, "shards": np.array(shards)}
    chosen = np.unique(np.linspace(0, len(listing.splits["train"].names) - 1, STATISTICS_IMAGES).astype(int))
    mean, std = _statistics([images[row] for row in chosen], grey, settings)
    write_arrays(partial / INDEX, arrays | {"mean": mean, "std": std}, findings)
    for number in range(len(shards) - 1):
        _part(partial, number).unlink()
    shutil.rmtree(folder, ignore_errors=True)  # without an index: of a process that died here
    os.replace(partial, folder)
    records_in.cache_clear()


def _write_shard(images: list[Encoded], settings: DataSettings, folder: Path, number: int) -> None:
    """A shard and, once that is whole, what the index needs of it; nothing if both are there."""
    part = _part(folder, number)
    if part.exists():
        return
    digests, grey = [], []
    with names_in_warnings() as findings:
        writer = write_records(shard_file(folder, number))
        try:
            for image in images:
                encoded, is_grey = _stored(image, settings)
                writer.write(encoded)
                digests.append(digest_of(encoded))
                grey.append(is_grey)
        finally:
            writer.close()
    found = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), -1)
    write_arrays(part, {"digests": found, "grey": np.array(grey)}, tuple(findings))


def _stored(image: Encoded, settings: DataSettings) -> tuple[bytes, bool]:
    """What is kept of an image, and whether it is grey."""
    try:
        with image.open() as file:
            encoded = file.read(MOST_ENCODED_BYTES + 1)
    except OSError as error:
        raise DataError(image.name, f"cannot be read ({error.strerror})", "check the file") from error
    whole = Encoded(image.name, lambda: BytesIO(encoded))
    mode, _ = header(whole, settings.max_image_pixels)
    if may_be_cut(encoded):
        decode_whole(whole)  # in training it would end the run, hours later
    if settings.pack_short_side is not None:
        encoded = shortened(whole, settings.pack_short_side, settings.background)
    return encoded, mode in GREY_MODES


def _statistics(images: list[Encoded], grey: bool, settings: DataSettings) -> tuple[np.ndarray, np.ndarray]:
    framed = settings.model_copy(update={"image_size": STATISTICS_SIZE, "resize": "shorter_side"})
    # What Pillow warns of was noted when they were packed.
    with names_in_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        decoded = list(pool.map(lambda image: pixels(image, grey, framed), images))
    mean, std = channel_statistics(np.stack(decoded))
    return np.array(mean), np.array(std)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.safetensors"
