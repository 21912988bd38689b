"""What an S3 error means: whether to try again, and what to tell the user."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import botocore.exceptions as botocore
import s3transfer.exceptions as s3transfer  # type: ignore[import-untyped]
from boto3.exceptions import Boto3Error, S3TransferFailedError, S3UploadFailedError
from botocore.eventstream import ParserError
from botocore.parsers import ResponseParserError

from orchestrator.experiment.hosts import endpoint_of, endpoint_setting, proxy_of
from orchestrator.experiment.redaction import one_line
from orchestrator.storage.base import StorageError
from orchestrator.storage.s3_error_table import meaning_of

S3_ERRORS = (
    *(botocore.BotoCoreError, botocore.ClientError, botocore.UndefinedModelAttributeError),
    *(ResponseParserError, ParserError, Boto3Error),
    *(kind for kind in vars(s3transfer).values() if getattr(kind, "__module__", "") == s3transfer.__name__),
)
"""Everything that boto3 raises for a request that failed."""

_line = partial(one_line, most=200)

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_LOST = {"412", "PreconditionFailed"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_UNKNOWN_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "400", "403"}
"""Keys that were rotated look like this; a HEAD request's reply has a status and no code."""
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess"}
_OTHER_REGION = {
    "301",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507", "ServiceQuotaExceededException"}
_TRANSIENT_CODES = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded",
    "InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict", "BadDigest",
    "NoSuchUpload",
    "412", "PreconditionFailed",  # of a download in parts: the object was replaced meanwhile
}  # fmt: skip
_LASTING_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")
"""Told from a TLS connection that a restarting server broke off."""


def code(error: Exception) -> str:
    """S3's code for the error (`NoSuchKey`), a bare HTTP status ("404"), or "" if no reply came."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, botocore.ClientError) else ""


def absent(error: Exception) -> bool:
    """Nothing is stored under the key."""
    return code(error) in _ABSENT


def lost(error: Exception) -> bool:
    """A conditional write found another version than the one it was for."""
    return code(error) in _LOST | _ABSENT  # 404: the version to replace was deleted


def refused_credentials(error: Exception) -> bool:
    """The store does not know, or no longer knows, the credentials."""
    return code(error) in _EXPIRED | _UNKNOWN_KEYS


def transient(error: Exception) -> bool:
    """It may pass without anybody changing a setting."""
    error = _cause(error)
    if isinstance(error, botocore.ClientError):
        lasting = code(error) in _FULL | {"NotImplemented", "501"}
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return code(error) in _TRANSIENT_CODES | _EXPIRED or (status >= 500 and not lasting)
    return meaning_of(error).transient and not any(word in str(error) for word in _LASTING_TLS)


def explain(error: Exception, uri: str, endpoint_url: str | None) -> StorageError:
    """The `StorageError` for what boto3 raised about `uri`."""
    error, address = _cause(error), endpoint_of(endpoint_url)
    store = address or "AWS S3"
    setting = endpoint_setting(endpoint_url)
    proxy = proxy_of(address or "https://s3.amazonaws.com")
    if isinstance(error, botocore.ClientError):
        problem, remedy = _words_for_reply(error, store)
        if proxy and "x-amz-request-id" not in _headers(error):  # every store's reply has one
            problem = f"{problem}, said by {proxy} or the store"
            remedy = f"name the store's host in NO_PROXY if it was the proxy; else {remedy}"
    else:
        meaning = meaning_of(error)
        problem, remedy = meaning.problem.format(store=store, line=_line(error)), meaning.remedy
        if proxy and meaning.transient:
            problem, remedy = f"{problem}, through {proxy}", f"{remedy}, and the proxy"
    return StorageError(uri, problem, remedy.replace("storage.endpoint_url", setting))


def _cause(error: Exception) -> Exception:
    """What went wrong with one part, where the error is about the whole of a transfer."""
    inner = getattr(error, "last_exception", None)
    if inner is None and isinstance(error, S3TransferFailedError | S3UploadFailedError):
        inner = error.__context__
    return inner if isinstance(inner, Exception) else error


def _words_for_reply(error: botocore.ClientError, store: str) -> tuple[str, str]:
    code_ = code(error)
    message = _line(error.response["Error"].get("Message", ""))
    if code_ == "NoSuchBucket":
        return "the bucket does not exist", f"create it at {store}, or correct storage.uri"
    if code_ == "InvalidAccessKeyId":
        return f"{store} does not know the access key id", "check AWS_ACCESS_KEY_ID (or AWS_PROFILE)"
    if code_ == "SignatureDoesNotMatch":
        return "the secret key does not fit the access key id", "check AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
    if code_ in _EXPIRED | {"InvalidToken"}:
        return (
            "the credentials have expired",
            "renew them (AWS_SESSION_TOKEN, or the source behind AWS_PROFILE)",
        )
    if code_ == "RequestTimeTooSkewed":
        return f"this host's clock is wrong{_skew(error)}", "set the clock (NTP)"
    if code_ in _OTHER_REGION:
        return f"the bucket is in {_region(error)}", "set AWS_REGION to the bucket's region"
    if code_ in _DENIED:
        return f"access denied to {error.operation_name}", (
            "check the credentials, and allow them s3:GetObject, PutObject, DeleteObject and ListBucket here"
        )
    if code_ in _FULL:
        return f"{store} is full ({message or code_})", "free some space there, or set storage.uri elsewhere"
    if code_ == "MissingContentLength" or "checksum" in message.lower() or "sha256" in code_.lower():
        return f"{store} refuses the SDK's checksums ({message or code_})", (
            "set storage.endpoint_url, or AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        )
    if code_ == "NotImplemented":
        return f"{store} has no {error.operation_name} ({message})", "use a store that has it"
    if code_.isdecimal():  # S3 gives its errors names; a bare status is a proxy's, or another server's
        return f"{store} answers {error.operation_name} with HTTP {code_} ({message})", (
            "check that storage.endpoint_url is an S3 server's address"
        )
    return (
        f"{error.operation_name} failed: {code_} {message}".rstrip(),
        f"look up {code_} in the store's manual",
    )


def _headers(error: botocore.ClientError) -> dict[str, str]:
    return dict(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _region(error: botocore.ClientError) -> str:
    region = error.response["Error"].get("Region") or _headers(error).get("x-amz-bucket-region")
    return f"region {region}" if region else "another region"


def _skew(error: botocore.ClientError) -> str:
    date = _headers(error).get("date")
    if date is None:
        return ""
    return f" by {abs((datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()):.0f} s"
