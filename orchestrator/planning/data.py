"""The data of an experiment on this machine: fetched, packed where it must be, and described."""

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
    memory = gpu_memory(cluster) if cluster.gpus_per_worker else None
    return room_for_images() if memory is None else min(room_for_images(), int(GPU_SHARE * memory))


def gpu_memory(cluster: Cluster, *, here: bool = True) -> float | None:
    """Bytes of the smallest GPU: as the experiment says, else of those that this process may use if it trains
    `here`; None: not known."""
    if cluster.gpu_memory_gib is not None:
        return cluster.gpu_memory_gib * 2**30
    if not here:
        return None
    import torch  # a second, which nobody waits for without GPUs

    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return min(torch.cuda.get_device_properties(device).total_memory for device in devices)


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
    size = f" ({gib(form.encoded_bytes)})" if form.encoded_bytes else ""
    return (
        f"{count}{size} {state} {form.folder}; decoded they take {gib(form.decoded_bytes)}, "
        f"and {gib(form.room)} of memory are for them"
    )


def gib(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
