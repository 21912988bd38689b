"""The data of an experiment on this machine: fetched, packed where it must be, and described."""

import subprocess

from ekd_train.data import Dataset, Packing, load_dataset
from ekd_train.data.dataset import PackedForm
from ekd_train.data.memory import room_for_images
from ekd_train.settings import DataSettings
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.pipeline.progress_bar import ProgressBar
from orchestrator.storage.data_source import local_data

GPU_SHARE = 0.5
"""Of a GPU's memory, for decoded images: networks and their activations need the rest [ours]."""


def room(cluster: Cluster) -> int:
    """Bytes that decoded images may take: of this container's memory, and of a GPU of this machine if GPUs
    train, which has a copy of them all."""
    gpus = _gpu_memory() if cluster.gpus_per_worker else []
    return min([room_for_images(), *(int(GPU_SHARE * memory) for memory in gpus)])


def _gpu_memory() -> list[int]:
    """Bytes of each GPU of this machine; none where its driver's own tool does not say."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return [int(line) << 20 for line in printed.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def load_here(data: DataSettings, endpoint_url: str | None, room: int, *, make: bool) -> Dataset:
    """`data`, fetched if it lies in S3, and packed if it would not fit; how far that is, is shown on stderr.

    `room`: bytes that decoded images may take. `make`: false: what is not packed yet is only described.

    Raises `DataError`, `ExperimentError` or `StorageError`.
    """
    bar = ProgressBar("images packed", PlainConsole(stderr=True))
    try:
        return load_dataset(local_data(data, endpoint_url), Packing(make, room, bar))
    finally:
        bar.close()


def packed_line(form: PackedForm) -> str:
    """What is packed, its size, and why."""
    count, state = f"{form.images:,} images", "are packed in" if form.made else "will be packed into"
    size = f" ({_gib(form.encoded_bytes)})" if form.encoded_bytes else ""
    return (
        f"{count}{size} {state} {form.folder}; decoded they take {_gib(form.decoded_bytes)}, "
        f"and {_gib(form.room)} of memory are for them"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
