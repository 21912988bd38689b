"""Whether a data set is on the Hugging Face hub: one answer for who reads it and for who says so before."""

import re
from pathlib import Path

from ekd_train.settings import DataSettings

_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def hub_name(settings: DataSettings) -> str | None:
    """`owner/name` if `data.path` is that and no folder or file, below `data.root` or where the process is.

    >>> hub_name(DataSettings(name="hugging_face", path="uoft-cs/cifar10"))
    'uoft-cs/cifar10'
    >>> hub_name(DataSettings(name="hugging_face", path="LICENSE"))
    """
    path = settings.path or ""
    if settings.name != "hugging_face" or not _NAME.fullmatch(path):
        return None
    here = (Path(settings.root or ".") / path, Path(path))  # the library would look at the second one too
    return None if any(place.exists() for place in here) else path
