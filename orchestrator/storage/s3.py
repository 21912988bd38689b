"""Keys as objects in an S3 bucket, at AWS or at a compatible store."""

import io
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from ekd_train.persistence.bounded_json import MOST_BYTES
from orchestrator.experiment.hosts import ENDPOINTS, endpoint_of, endpoint_setting, is_malformed, why_exposed
from orchestrator.storage import s3_client, s3_errors
from orchestrator.storage.atomic_files import replacing
from orchestrator.storage.base import (
    Conflict,
    MissingKey,
    Storage,
    Version,
    checked_size,
    is_key,
    validate_key,
)
from orchestrator.storage.local import explained

Result = TypeVar("Result")

MULTIPART_BYTES = 16 << 20
"""Larger objects travel in parts of this size, each retried alone."""
_TRANSFER = TransferConfig(
    multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4
)
_WRITE_ID = "ekd-write"
"""Metadata that tells our own conditional write, whose reply was lost, from somebody else's."""


@dataclass(frozen=True)
class S3Storage(Storage):
    """Objects of `bucket` whose names begin with `prefix` and a slash (no prefix: all).

    A store that is away or overloaded is tried again, at growing intervals, until `patience_s`
    seconds after the call began (plus the time-outs of a last attempt); then `StorageError` is
    raised. What cannot pass by itself, such as a wrong key, is raised at once.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    patience_s: float = 180.0
    root: str | None = field(default=None, compare=False)
    """Prefix of the storage that this is a child of; None: of none."""

    @classmethod
    def from_uri(cls, uri: str, endpoint_url: str | None = None, *, patience_s: float = 180.0) -> "S3Storage":
        """The storage at `s3://bucket/prefix`; `endpoint_url` None is AWS. Raises ValueError."""
        bucket, _, prefix = uri.partition("://")[2].partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            # The text is not repeated: it may hold keys, as in s3://key:secret@bucket.
            raise ValueError(
                "storage.uri begins with s3:// but no valid bucket name follows "
                "(3 to 63 of a-z, 0-9, dot, hyphen); valid form: s3://bucket/prefix, "
                "with credentials in the environment"
            )
        prefix = prefix.rstrip("/")
        if prefix and (not is_key(prefix) or "?" in prefix or "#" in prefix):
            raise ValueError(f"storage.uri has the invalid prefix {prefix!r}; valid form: s3://bucket/prefix")
        _refuse_exposed_token(endpoint_of(endpoint_url) or "")
        if (address := endpoint_of(endpoint_url)) is not None:
            address = _checked_endpoint(address, endpoint_setting(endpoint_url))
        return cls(bucket, prefix, None if endpoint_url is None else address, patience_s)

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The bytes of an object."""
        return self._get(key, most_bytes)[0]

    def read_versioned(self, key: str) -> tuple[bytes, Version]:
        """The version is the object's ETag."""
        return self._get(key, MOST_BYTES)

    def _get(self, key: str, most_bytes: int) -> tuple[bytes, Version]:
        def get(client: Any) -> tuple[bytes, Version]:
            reply = client.get_object(Bucket=self.bucket, Key=self._name(key))
            with reply["Body"] as body:  # closed unread if it is too large
                checked_size(self.uri(key), reply["ContentLength"], most_bytes)
                return body.read(), Version(reply["ETag"])

        return self._read(key, get)

    def read_file(self, key: str, path: Path) -> None:
        """Fetch `key` into the file `path`, which is replaced atomically. Raises `MissingKey`."""
        name = self._name(key)
        with explained(str(path)), replacing(path) as file:

            def download(client: Any) -> None:
                file.seek(0)
                file.truncate()
                client.download_fileobj(self.bucket, name, file, Config=_TRANSFER)

            self._read(key, download)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        name = self._name(key)

        def upload(client: Any) -> None:  # of a file anew for every attempt: the transfer closes it
            client.upload_fileobj(io.BytesIO(data), self.bucket, name, Config=_TRANSFER)

        self._call(key, upload)

    def write_if(self, key: str, data: bytes, *, match: Version | None) -> Version:
        """`preflight` finds the stores that ignore the condition."""
        name = self._name(key)
        write_id = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if match is None else {"IfMatch": match}

        def put(client: Any) -> Version:
            place = {"Bucket": self.bucket, "Key": name}
            try:
                reply = client.put_object(**place, **condition, Body=data, Metadata={_WRITE_ID: write_id})
            except ClientError as error:
                if not s3_errors.lost(error):
                    raise
                # The winner may be this very write, if its first reply was lost and it was sent again.
                try:
                    reply = client.head_object(**place)
                except ClientError as gone:
                    if not s3_errors.absent(gone):
                        raise
                    raise Conflict(self.uri(key)) from None
                if reply.get("Metadata", {}).get(_WRITE_ID) != write_id:
                    raise Conflict(self.uri(key)) from None
            return Version(reply["ETag"])

        return self._call(key, put)

    def list(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, sorted."""
        return sorted(self.versions(prefix))

    def versions(self, prefix: str = "") -> dict[str, Version]:
        """What `list` gives, with the version of each object, for the price of the list."""
        below = len(self.prefix) + 1 if self.prefix else 0
        objects = self._objects(prefix)
        return {key: version for name, version in objects.items() if is_key(key := name[below:])}

    def delete(self, key: str) -> None:
        """Remove an object; that there is none is no error."""
        self._delete(key, self._name(key))

    def delete_prefix(self, prefix: str) -> None:
        """Parts of uploads that never ended go too."""
        names = list(self._objects(validate_key(prefix)))
        # One request each, because not every store deletes in bulk.
        with ThreadPoolExecutor(max_workers=8) as pool:
            for _ in pool.map(lambda name: self._delete(prefix, name), names):
                pass  # raises what a deletion raised
        self._call(prefix, lambda client: self._abort_uploads(client, f"{self._name(prefix)}/"))

    def age_s(self, key: str) -> float:
        """By the clock that the store's replies show."""

        def age(client: Any) -> float:
            reply = client.head_object(Bucket=self.bucket, Key=self._name(key))
            now = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
            return float((now - reply["LastModified"]).total_seconds())

        return self._read(key, age)

    def uri(self, key: str = "") -> str:
        """Where an object, or the storage itself, is."""
        path = "/".join(part for part in (self.prefix, validate_key(key) if key else "") if part)
        return f"s3://{self.bucket}/{path}".rstrip("/")

    def child(self, prefix: str) -> "S3Storage":
        """The storage below a prefix of this one."""
        return replace(self, prefix=self._name(prefix), root=self.top.prefix)

    @property
    def top(self) -> "S3Storage":
        """The storage that this is a child of, or itself."""
        return self if self.root is None else replace(self, prefix=self.root, root=None)

    def free_bytes(self) -> None:
        """A bucket has no limit that could be asked for."""

    @property
    def local_folder(self) -> None:
        """There is none."""

    def _name(self, key: str) -> str:
        """The object's name in the bucket."""
        validate_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _objects(self, prefix: str) -> dict[str, Version]:
        folder = self._name(prefix) if prefix else self.prefix

        def pages(client: Any) -> dict[str, Version]:
            paginator = client.get_paginator("list_objects_v2")
            found = paginator.paginate(Bucket=self.bucket, Prefix=f"{folder}/" if folder else "")
            return {item["Key"]: Version(item["ETag"]) for page in found for item in page.get("Contents", [])}

        return self._call(prefix, pages)

    def _abort_uploads(self, client: Any, beginning: str) -> None:
        with suppress(ClientError):  # not every store can; there a lifecycle rule of the bucket must
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=beginning
            )
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                place = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                client.abort_multipart_upload(Bucket=self.bucket, **place)

    def _delete(self, key: str, name: str) -> None:
        def delete(client: Any) -> None:
            try:
                client.delete_object(Bucket=self.bucket, Key=name)
            except ClientError as error:  # some stores mind; AWS does not
                if not s3_errors.absent(error):
                    raise

        self._call(key, delete)

    def _read(self, key: str, operation: Callable[[Any], Result]) -> Result:
        def read(client: Any) -> Result:
            try:
                return operation(client)
            except ClientError as error:
                if s3_errors.absent(error):
                    raise MissingKey(self.uri(key)) from None
                raise

        return self._call(key, read)

    def _call(self, key: str, operation: Callable[[Any], Result]) -> Result:
        return s3_client.call(operation, self.uri(key), self.endpoint_url, self.patience_s)


def _refuse_exposed_token(endpoint_url: str) -> None:
    """Requests are signed and hold no secret key, but the token of temporary credentials goes with each."""
    if endpoint_url.startswith("http:") and (reason := why_exposed(endpoint_url, "S3's session token")):
        _, _, token = s3_client.present_credentials()
        if token:
            raise ValueError(f"{endpoint_url}: {reason}")


def _checked_endpoint(address: str, setting: str) -> str:
    if is_malformed(address):
        raise ValueError(f"{setting}: its host or its port cannot be one")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{setting} must be http(s)://host[:port], with credentials in the environment only")
    if setting not in ENDPOINTS and (parts.path.strip("/") or parts.query or parts.fragment):
        raise ValueError(f"{setting} {address!r}: nothing may follow host and port")
    return address.rstrip("/")
