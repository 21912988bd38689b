"""Data sets that lie in S3: fetched once a machine, then read like any folder.

Only the driver's machine fetches; from there the images travel through Ray's object store, once to
every node.
"""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from ekd_train.data.user_cache import cache_folder, locked
from ekd_train.persistence.bounded_json import read_bounded_json
from ekd_train.settings import DataSettings
from orchestrator.errors import ExperimentError
from orchestrator.storage.atomic_files import replacing

if TYPE_CHECKING:
    from orchestrator.storage.s3 import S3Storage

PATIENCE_S = 20.0
"""A user waits for this: nothing has begun yet."""

INDEX = ".versions.json"
"""Which version of each object the folder holds; no object's name begins with a dot."""

INDEX_EVERY_S = 10.0
"""How often it is written while objects are fetched."""


def local_data(data: DataSettings, endpoint_url: str | None) -> DataSettings:
    """`data`, with `root` a folder of this machine: what lies below `s3://` is fetched if it is new.

    Raises `ExperimentError`, or `StorageError` where the store refuses or cannot be reached.
    """
    if data.root is None or not data.root.startswith("s3://"):
        return data
    from orchestrator.storage.s3 import S3Storage

    if data.download:
        raise ExperimentError("data.download: nothing is downloaded into S3; put the files there yourself")
    try:
        source = S3Storage.from_uri(data.root, endpoint_url, patience_s=PATIENCE_S)
    except ValueError as error:
        raise ExperimentError(f"data.root: {str(error).replace('storage.uri', 'it')}") from None
    name = hashlib.sha256(f"{endpoint_url} {source.uri()}".encode()).hexdigest()[:16]
    folder = cache_folder("data") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            _bring_up_to_date(source, folder)
    except OSError as error:
        raise ExperimentError(
            f"data.root: cannot keep {source.uri()} in {folder}: {error.strerror}; set XDG_CACHE_HOME"
        ) from error
    return data.model_copy(update={"root": str(folder)})


def _bring_up_to_date(source: "S3Storage", folder: Path) -> None:
    from orchestrator.pipeline.plain_console import PlainConsole
    from orchestrator.pipeline.progress_bar import ProgressBar

    wanted = source.versions()
    if not wanted:
        raise ExperimentError(f"data.root: there is nothing below {source.uri()}")
    kept = _read_index(folder / INDEX)
    for gone in kept.keys() - wanted.keys():
        (folder / gone).unlink(missing_ok=True)
        del kept[gone]
    new = [key for key, version in wanted.items() if kept.get(key) != version or not (folder / key).exists()]
    written_at = time.monotonic()
    meter = ProgressBar(f"images from {source.uri()}", PlainConsole(stderr=True))
    pool = ThreadPoolExecutor(max_workers=8)
    futures = {pool.submit(source.read_file, key, folder / key): key for key in new}
    try:
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            kept[futures[future]] = wanted[futures[future]]
            meter(done, len(new))
            if time.monotonic() - written_at >= INDEX_EVERY_S:  # whoever is killed now has lost no more
                _write_index(folder / INDEX, kept)
                written_at = time.monotonic()
    finally:
        meter.close()
        pool.shutdown(cancel_futures=True)  # those under way come to their end
        whole = [f for f in futures if not f.cancelled() and f.exception() is None]
        kept |= {futures[f]: wanted[futures[f]] for f in whole}
        _write_index(folder / INDEX, kept)


def _write_index(file: Path, kept: dict[str, str]) -> None:
    with replacing(file) as written:
        written.write(json.dumps(kept).encode())


def _read_index(file: Path) -> dict[str, str]:
    try:
        found = read_bounded_json(file.read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: all is fetched again
        return {}
    return found if isinstance(found, dict) else {}
