"""What Ray and MLflow are told, so that they use the same store as `orchestrator.storage`.

Ray reaches S3 through pyarrow and MLflow through a boto3 of its own; both are fed from the one
setting `storage.endpoint_url`.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.storage.atomic_files import folder_below
from orchestrator.storage.base import Storage
from orchestrator.storage.fenced import FencedStorage

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

RAY = "ray"
"""What Ray writes is below this, in the folder of a run."""


def environment(endpoint_url: str | None) -> dict[str, str]:
    """Variables for every process of a run, the driver's own included, before it first uses S3.

    Addresses only: credentials stay in the environment that the user made.

    >>> environment(None)
    {}
    """
    if endpoint_url is None:
        return {}
    return {
        "AWS_ENDPOINT_URL_S3": endpoint_url,
        "MLFLOW_S3_ENDPOINT_URL": endpoint_url,
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
        # Compatible stores may refuse the checksums that the SDKs, pyarrow's too, add by default.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def ray_storage(storage: Storage) -> "tuple[str, FileSystem | None]":
    """`storage_path` and `storage_filesystem` of Ray's RunConfig for the place `storage`, below `RAY`.

    For a compatible store, `environment` must already hold in this process.
    """
    if storage.local_folder is not None:
        # Ray would follow a link there, and delete and write where it leads.
        if (storage.local_folder / RAY).is_symlink():
            (storage.local_folder / RAY).unlink()
        with folder_below(storage.local_folder, (RAY,), make=True):
            return str(storage.local_folder), None
    from boto3.session import Session
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    from orchestrator.storage.s3 import S3Storage
    from orchestrator.storage.s3_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

    storage = storage.inner if isinstance(storage, FencedStorage) else storage
    if not isinstance(storage, S3Storage):
        raise TypeError(f"Ray cannot be given a {type(storage).__name__}")
    path = f"{storage.bucket}/{storage.prefix}".rstrip("/")
    timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "request_timeout": READ_TIMEOUT_S}
    if storage.endpoint_url is None:
        return path, S3FileSystem(region=resolve_s3_region(storage.bucket), **timeouts)
    parts = urlsplit(storage.endpoint_url)
    return path, S3FileSystem(
        scheme=parts.scheme,
        endpoint_override=parts.netloc,
        # Without one, pyarrow asks the cloud's metadata service, which may not exist here.
        region=Session().region_name or "us-east-1",
        **timeouts,
    )
