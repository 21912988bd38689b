"""The data of an experiment on this machine: fetched, packed where it must be, and described."""

from ekd_train.data import Dataset, Packing, load_dataset
from ekd_train.data.dataset import PackedForm
from ekd_train.settings import DataSettings
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.pipeline.progress_bar import ProgressBar
from orchestrator.storage.data_source import local_data


def load_here(data: DataSettings, endpoint_url: str | None, *, make: bool) -> Dataset:
    """`data`, fetched if it lies in S3, and packed if it would not fit; how far that is, is shown on stderr.

    `make`: false: what is not packed yet is only described.

    Raises `DataError`, `ExperimentError` or `StorageError`.
    """
    bar = ProgressBar("images packed", PlainConsole(stderr=True))
    try:
        return load_dataset(local_data(data, endpoint_url), Packing(make, progress=bar))
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
