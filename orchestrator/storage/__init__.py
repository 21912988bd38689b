"""Where runs are kept: a folder or an S3 bucket, behind one small interface.

The S3 libraries are imported when an S3 storage is first opened, not before.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.storage.base import Conflict, MissingKey, Storage, StorageError, TooLarge, Version
from orchestrator.storage.local import LocalStorage

__all__ = ["Conflict", "MissingKey", "Storage", "StorageError", "TooLarge", "Version", "open_storage"]

_FORMS = "valid forms: a folder (runs, /data/runs, ~/runs), file:///data/runs, s3://bucket/prefix"


def open_storage(uri: str, endpoint_url: str | None = None, *, patience_s: float = 180.0) -> Storage:
    """The storage at `uri`; nothing is contacted or created yet.

    `uri`: a folder (relative to the current one, `~` allowed), `file:///folder` or
    `s3://bucket/prefix`. `endpoint_url`: the http(s) address of an S3-compatible store other than
    AWS; only with s3://. `patience_s`: seconds for which an S3 store that is away is tried again
    before a call fails. Raises ValueError for anything else.

    >>> open_storage("/data/runs").uri("digits-1/manifest.json")
    '/data/runs/digits-1/manifest.json'
    """
    scheme = match[1] if (match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", uri)) else ""
    if scheme != scheme.lower():  # whoever looks for s3:// would not see it
        raise ValueError(f"storage.uri: write {scheme.lower()}://, in small letters; {_FORMS}")
    if scheme == "s3":
        from orchestrator.storage.s3 import S3Storage

        return S3Storage.from_uri(uri, endpoint_url, patience_s=patience_s)
    if endpoint_url is not None:
        raise ValueError(f"storage.endpoint_url is for s3:// only, not for {uri!r}; remove it")
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ValueError(f"storage.uri {uri!r} is not a folder of this host; {_FORMS}")
        folder = unquote(parts.path)
    elif scheme == "":
        folder = uri
    else:
        raise ValueError(f"storage.uri begins with {scheme}://, which is not supported; {_FORMS}")
    if not folder.strip() or not folder.isprintable():
        raise ValueError(f"storage.uri {uri!r} names no folder; {_FORMS}")
    folder = os.path.expanduser(folder)
    if folder.startswith("~"):
        raise ValueError(f"storage.uri {uri!r} begins with a home that is not known; write the whole path")
    return LocalStorage(Path(os.path.abspath(folder)))
