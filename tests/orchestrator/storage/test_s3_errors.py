import importlib
import pkgutil
import string
from contextlib import suppress

import boto3.exceptions
import botocore.exceptions
import pytest
import s3transfer
from botocore.exceptions import ClientError

from orchestrator.storage import open_storage, s3_errors
from orchestrator.storage.s3_error_table import MEANINGS


def reply(code, status=400, message="", headers=None, **fields):
    """The exception that boto3 makes of such a reply."""
    response = {
        "Error": {"Code": code, "Message": message, **fields},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (reply("NoSuchBucket", 404), "the bucket does not exist", "create it at http://store:9000"),
        (reply("InvalidAccessKeyId", 403), "does not know the access key id", "AWS_ACCESS_KEY_ID"),
        (reply("SignatureDoesNotMatch", 403), "the secret key does not fit", "AWS_SECRET_ACCESS_KEY"),
        (reply("ExpiredToken"), "the credentials have expired", "AWS_SESSION_TOKEN"),
        (reply("RequestTimeTooSkewed", 403), "this host's clock is wrong", "NTP"),
        (reply("AccessDenied", 403), "access denied to PutObject", "s3:GetObject"),
        (reply("403", 403, "Forbidden"), "access denied to PutObject", "s3:GetObject"),
        (
            reply("PermanentRedirect", 301, headers={"x-amz-bucket-region": "eu-west-1"}),
            "the bucket is in region eu-west-1",
            "AWS_REGION",
        ),
        (reply("AuthorizationHeaderMalformed", Region="eu-north-1"), "in region eu-north-1", "AWS_REGION"),
        (reply("MissingContentLength", 411), "refuses the SDK's checksums", "when_required"),
        (
            reply("InvalidRequest", 400, "Unsupported checksum algorithm"),
            "refuses the SDK's checksums (Unsupported checksum algorithm)",
            "when_required",
        ),
        (reply("XMinioStorageFull", 507), "is full", "free some space"),
        (reply("QuotaExceeded", 403), "is full", "free some space"),
        (reply("NotImplemented", 501, "no If-Match"), "has no PutObject (no If-Match)", "use a store"),
        (reply("Strange", 400, "a\n  b"), "PutObject failed: Strange a b", "manual"),
        (botocore.exceptions.NoCredentialsError(), "no usable credentials", "AWS_PROFILE"),
        (botocore.exceptions.ProfileNotFound(profile="p"), "profile (p) could not be found", "AWS_PROFILE"),
    ],
)  # fmt: skip
def test_each_refusal_is_final_and_says_what_is_wrong_and_what_to_do(error, problem, remedy):
    explained = s3_errors.explain(error, "s3://bucket/key", "http://store:9000")
    assert explained.uri == "s3://bucket/key"
    assert problem in explained.problem
    assert remedy in explained.remedy
    assert "\n" not in str(explained)
    assert s3_errors.transient(error) == (s3_errors.code(error) == "ExpiredToken")  # may be renewed meanwhile


@pytest.mark.parametrize(
    "error",
    [
        reply("SlowDown", 503),
        reply("InternalError", 500),
        reply("502", 502),
        reply("RequestTimeout", 400),
        reply("ConditionalRequestConflict", 409),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://store:9000"),
        botocore.exceptions.ConnectTimeoutError(endpoint_url="http://store:9000"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://store:9000"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://store:9000"),
        botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        botocore.exceptions.SSLError(endpoint_url="https://store:9000", error="EOF occurred"),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(error):
    assert s3_errors.transient(error)


def test_a_wrong_certificate_does_not_pass_by_itself():
    error = botocore.exceptions.SSLError(endpoint_url="https://store", error="CERTIFICATE_VERIFY_FAILED")
    assert not s3_errors.transient(error)


def test_the_clock_error_is_measured():
    error = reply("RequestTimeTooSkewed", 403, headers={"date": "Mon, 01 Jan 2001 00:00:00 GMT"})
    seconds = int(s3_errors.explain(error, "s3://bucket", None).problem.split()[-2])
    assert seconds > 20 * 365 * 24 * 3600


def error_classes():
    """Every error class of boto3, botocore and s3transfer, wherever it is defined."""
    found = {}
    for package in (boto3, botocore, s3transfer):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "vendored" in module.name or module.name.endswith((".crt", ".__main__")):
                continue
            try:
                names = vars(importlib.import_module(module.name))
            except ImportError:  # of the optional CRT
                continue
            for value in names.values():
                if isinstance(value, type) and issubclass(value, Exception):
                    found[value] = value.__module__.partition(".")[0] in ("boto3", "botocore", "s3transfer")
    return sorted((kind for kind, theirs in found.items() if theirs), key=lambda kind: kind.__qualname__)


NOT_OF_A_REQUEST = {
    "NoShapeFoundError", "InvalidShapeError", "OperationNotFoundError", "InvalidShapeReferenceError",
    "RuleSetFormatException", "RequestSerializationError", "RequestParameterSerializationError",
    "QueueShutdownError", "BadIMDSRequestError", "InvalidArnException", "NoResourcesAvailable",
    "RequestExceededException", "_RetriesExceededError",
}  # fmt: skip
"""Of a service's description, of streams both ways, or caught inside the libraries."""


def instance(kind):
    """An error of this class with values for whatever its message names."""
    if issubclass(kind, botocore.exceptions.BotoCoreError):
        fields = [name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name]
        with suppress(TypeError):  # a few have arguments of their own
            return kind(**dict.fromkeys(fields, "a\n b"))
    error = kind.__new__(kind)
    error.args = ("a\n b",)
    return error


def test_every_error_class_of_the_libraries_has_a_row_of_its_own():
    """A class that a new release adds fails here until somebody says what it means."""
    kinds = [kind for kind in error_classes() if not issubclass(kind, ClientError | Warning)]
    assert len(kinds) > 90
    missing = {kind.__name__ for kind in kinds} - MEANINGS.keys() - NOT_OF_A_REQUEST
    assert not missing


@pytest.mark.parametrize(
    "kind",
    [kind for kind in error_classes() if not issubclass(kind, ClientError | Warning)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_is_explained_in_one_line(kind):
    if kind.__name__ in NOT_OF_A_REQUEST:
        return
    error = instance(kind)
    assert isinstance(error, s3_errors.S3_ERRORS)
    explained = s3_errors.explain(error, "s3://bucket/key", "http://store:9000")
    assert "\n" not in str(explained)
    assert explained.remedy
    assert s3_errors.transient(error) == MEANINGS[kind.__name__].transient


def test_a_refused_upload_is_explained_by_the_refusal():
    failed = boto3.exceptions.S3UploadFailedError("Failed to upload")
    failed.__context__ = reply("AccessDenied", 403)  # as boto3 raises it
    assert "access denied" in s3_errors.explain(failed, "s3://bucket/key", None).problem
    assert not s3_errors.transient(failed)


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        for written in (name, name.lower()):
            monkeypatch.delenv(written, raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_a_proxys_refusal_is_told_from_the_stores(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    by_the_store = reply("403", 403, "Forbidden", headers={"x-amz-request-id": "1"})
    assert "NO_PROXY" not in s3_errors.explain(by_the_store, "s3://bucket/key", None).remedy
    assert "NO_PROXY" in s3_errors.explain(reply("403", 403), "s3://bucket/key", None).remedy
    by_the_proxy = s3_errors.explain(reply("403", 403), "s3://bucket/key", None)
    assert "said by the proxy http://proxy:3128 (HTTPS_PROXY, NO_PROXY) or the store" in by_the_proxy.problem
    assert by_the_proxy.remedy.startswith("name the store's host in NO_PROXY if it was the proxy; else check")
    monkeypatch.setenv("NO_PROXY", "amazonaws.com")
    assert "NO_PROXY" not in s3_errors.explain(reply("403", 403), "s3://bucket/key", None).remedy


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_says_nothing_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://ann:secret@proxy:3128")
    silent = botocore.exceptions.ReadTimeoutError(endpoint_url="http://store:9000")
    said = str(s3_errors.explain(silent, "s3://bucket/key", "http://store:9000"))
    assert "through the proxy http://***@proxy:3128 (HTTP_PROXY, NO_PROXY)" in said


def test_an_address_from_a_variable_is_called_by_its_name(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    away = botocore.exceptions.EndpointConnectionError(endpoint_url="http://store:9000")
    said = str(s3_errors.explain(away, "s3://bucket/key", None))
    assert "cannot connect to http://store:9000" in said
    assert "check that it runs, AWS_ENDPOINT_URL and the network" in said
    monkeypatch.setenv("AWS_ENDPOINT_URL", "foo")
    with pytest.raises(ValueError, match=r"AWS_ENDPOINT_URL must be http\(s\)://host\[:port\]"):
        open_storage("s3://bucket/prefix")
