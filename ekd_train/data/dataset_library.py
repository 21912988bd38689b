"""The splits that the `datasets` library makes of a folder, or of the hub's data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from ekd_train.hugging_face_hub import audible, cache_alone, why_hub_is_away

from .errors import DataError
from .local_splits import check_files


def load_from_hub(name: str) -> dict[str, Any]:
    """The hub is asked first: in the cache there may be another of the data set's configurations."""
    why = None if datasets.config.HF_HUB_OFFLINE else why_hub_is_away()
    if why is None:
        with audible(name):
            return load(name)
    try:
        with cache_alone():
            return load(name)
    except DataError as error:
        raise DataError(
            name,
            f"is not in the cache, nor to download ({why})",
            "fetch it where there is a network, and set HF_HOME to that cache",
        ) from error


def load(path: str, patterns: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """The splits of a folder or of the hub's data set; `patterns`: of a folder, which files are which."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in its exceptions
    try:
        builder = datasets.load_dataset_builder(path, data_files=None if patterns is None else dict(patterns))
        check_files((builder.config.data_files or {}).items(), str(builder.base_path))
        builder.download_and_prepare()
        found = builder.as_dataset()
    except DataError:
        raise
    except Exception as error:  # of the hub, the network, the file system, or a parser
        remedy = (
            "check the folder"
            if Path(path).exists()
            else "check the name; offline, fetch it where there is a network and set HF_HOME to that cache"
        )
        raise DataError(path, f"cannot be loaded ({type(error).__name__}: {error})", remedy) from error
    return dict(found)
