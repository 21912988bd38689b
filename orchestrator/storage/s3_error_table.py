"""What each error class of boto3 and the libraries below it means. A test walks all of them.

Classes stand here by name, because releases differ in which they have; one that is not here has the row of
the nearest class that it derives from.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """Whether it may pass by itself, and the two halves of a `StorageError`.

    `{store}` becomes the store's address, `{line}` the error's own words.
    """

    problem: str
    remedy: str
    transient: bool = False


_CONNECT = Meaning(
    "cannot connect to {store}", "check that it runs, storage.endpoint_url and the network", transient=True
)
_PROXY = Meaning(
    "no connection through the proxy ({line})",
    "check HTTP_PROXY and HTTPS_PROXY, or name the store's host in NO_PROXY",
    transient=True,
)
_TLS = Meaning(
    "no TLS connection to {store}",
    "check http/https in storage.endpoint_url, and AWS_CA_BUNDLE",
    transient=True,
)
_BROKEN_OFF = Meaning(
    "{store} does not answer, or breaks off ({line})", "check the store and the network", transient=True
)
_DAMAGED = Meaning(
    "what came from {store} does not have its checksum ({line})",
    "check the network; for a store without checksums set AWS_RESPONSE_CHECKSUM_VALIDATION=when_required",
    transient=True,
)
_CREDENTIALS = Meaning(
    "no usable credentials ({line})",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where this process runs",
)
_CREDENTIALS_AWAY = Meaning(_CREDENTIALS.problem, _CREDENTIALS.remedy, transient=True)
_LOGIN = Meaning(
    "no usable credentials ({line})", "log in again (aws sso login, or aws login), or set AWS_ACCESS_KEY_ID"
)
_REGION = Meaning("no usable region ({line})", "set AWS_REGION, or storage.endpoint_url")
_CONFIG = Meaning(
    "AWS's configuration cannot be used ({line})", "correct ~/.aws/config, or the AWS_ variable that it names"
)
_ADDRESS = Meaning("it cannot be asked for ({line})", "check storage.uri and storage.endpoint_url")
_NOT_S3 = Meaning(
    "{store} does not speak S3",
    "check storage.endpoint_url (its port, above all), HTTP_PROXY and HTTPS_PROXY",
)
_LIBRARY = Meaning("boto3 itself failed ({line})", "install it again: pip install --force-reinstall boto3")

_CLASSES: dict[Meaning, str] = {
    _CONNECT: "ConnectionError EndpointConnectionError ConnectTimeoutError",
    _PROXY: "ProxyConnectionError",
    _TLS: "SSLError",
    _BROKEN_OFF: """
        HTTPClientError ConnectionClosedError ReadTimeoutError ResponseStreamingError IncompleteReadError
        CapacityNotAvailableError RetriesExceededError S3TransferFailedError S3UploadFailedError
        S3DownloadFailedError S3CopyFailedError TransferNotDoneError CancelledError FatalError""",
    _DAMAGED: "ChecksumError FlexibleChecksumError ChecksumMismatch",
    _CREDENTIALS: """
        NoCredentialsError PartialCredentialsError CredentialRetrievalError ProfileNotFound NoAuthTokenError
        UnknownTokenProviderError UnknownCredentialError RefreshWithMFAUnsupportedError
        InfiniteLoopConfigError""",
    _CREDENTIALS_AWAY: "MetadataRetrievalError",
    _LOGIN: """
        SSOError SSOTokenLoadError UnauthorizedSSOTokenError PendingAuthorizationExpiredError
        TokenRetrievalError LoginError LoginRefreshRequired LoginInsufficientPermissions LoginTokenLoadError
        LoginAuthorizationCodeError""",
    _REGION: """
        BaseEndpointResolverError NoRegionError UnknownRegionError InvalidRegionError UnknownEndpointError
        UnknownFIPSEndpointError EndpointVariantError ServiceNotInRegionError""",
    _CONFIG: """
        ConfigParseError ConfigNotFound InvalidConfigError InvalidRetryConfigurationError
        InvalidMaxRetryAttemptsError InvalidRetryModeError InvalidProxiesConfigError InvalidDefaultsMode
        InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError
        InvalidSTSRegionalEndpointsConfigError InvalidChecksumConfigError InvalidIMDSEndpointError
        InvalidIMDSEndpointModeError InvalidEndpointDiscoveryConfigurationError UnknownSignatureVersionError
        UnsupportedSignatureVersionError UnsupportedS3ConfigurationError
        UnsupportedS3ControlConfigurationError InvalidEndpointConfigurationError
        InvalidCrtTransferConfigError""",
    _ADDRESS: """
        InvalidDNSNameError InvalidHostLabelError UnsupportedS3ArnError UnsupportedS3ControlArnError
        UnsupportedOutpostResourceError UnsupportedS3AccesspointConfigurationError EndpointProviderError
        EndpointResolutionError UnknownEndpointResolutionBuiltInName ParamValidationError ValidationError
        UnknownKeyError RangeError UnknownParameterError AliasConflictParameterError MissingParametersError
        S3ValidationError EndpointDiscoveryException EndpointDiscoveryRequired
        EndpointDiscoveryRefreshFailed""",
    _NOT_S3: """
        ResponseParserError ParserError NoInitialResponseError DuplicateHeader InvalidHeadersLength
        InvalidPayloadLength""",
    _LIBRARY: """
        BotoCoreError Boto3Error DataNotFoundError UnknownServiceError ApiVersionNotFoundError
        UnknownServiceStyle UnsupportedServiceProtocolsError UndefinedModelAttributeError
        MissingServiceIdError MissingDependencyException MD5UnavailableError UnknownClientMethodError
        OperationNotPageableError PaginationError WaiterError WaiterConfigError InvalidExpressionError
        UnseekableStreamError AwsChunkedWrapperError StubResponseError StubAssertionError
        UnStubbedResponseError ResourceLoadException NoVersionFound UnknownAPIVersionError
        ResourceNotExistsError DynamoDBOperationNotSupportedError DynamoDBNeedsConditionError
        DynamoDBNeedsKeyConditionError InvalidSubscriberMethodError""",
}

MEANINGS: dict[str, Meaning] = {
    name: meaning for meaning, names in _CLASSES.items() for name in names.split()
}
"""By a class's name. Replies of the store (`ClientError`) are told apart by their code, not here."""


def meaning_of(error: Exception) -> Meaning:
    """The row of the error's class, or of the nearest one above it."""
    rows = (MEANINGS.get(kind.__name__) for kind in type(error).__mro__)
    return next((row for row in rows if row is not None), _LIBRARY)
