"""What to do about an error of MLflow, or of the libraries below it: by text, code and class.

The first that fits: words, the class of the library below it that failed, MLflow's code. A test walks all
codes and classes.
"""

import re
from itertools import chain

from orchestrator.errors import causes_of

_LATER = "wait, and give the same command again: what is done is kept"
_ITS_LOG = "if it is a server, its log says why"
_VERSION = (
    "if it is a server, use the same MLflow there as here (`python -m mlflow --version`), and check that "
    "tracking.uri leads to it"
)
_LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_RIGHT = "ask for the right to write experiments and models there"
_CHANGED = "something else changed it at the same time: give the same command again"
_GONE = "it was deleted meanwhile, or never made: MLflow's page shows what is there"
_OVERLOADED = "the server answers, and cannot: its log says why; what is done is kept, so try again later"
_REFUSED = "the server, or a proxy before it, refuses this: its log says why"
_FULL = "its limit is reached: delete what is not needed, or have the limit raised"
_DATABRICKS = "it is of a service of Databricks' beside MLflow, whose message says what is wrong"
_ADDRESS = "check tracking.uri, or the variable that it comes from"
_DATABASE = "check that its database runs and takes connections, and the user and password in tracking.uri"
_SCHEMA = "its database is of another version, or not MLflow's: `mlflow db upgrade`, or another tracking.uri"
_DRIVER = "install the database's driver here, such as `pip install psycopg2-binary`"
_TLS = "check http/https in tracking.uri, and MLFLOW_TRACKING_SERVER_CERT_PATH for a certificate of your own"
_NETWORK = "check that it runs, tracking.uri and the network"
_PROXY = "check HTTP_PROXY and HTTPS_PROXY, or name its host in NO_PROXY"
_NO_SERVER = "what answers there is no MLflow server: check tracking.uri (its port, above all) and proxies"
_ARTIFACTS = "it is of the bucket where MLflow keeps artifacts: check that it answers, and AWS_ variables"
_LIBRARY = "MLflow itself failed: install it again (`pip install --force-reinstall mlflow`)"

BY_TEXT = {
    r"no such table": "its database was deleted or replaced meanwhile: the same command makes it anew",
    r"readonly database": "its database was deleted or made read-only: restore it, or let it be written",
    r"disk is full": "free some space where its database is",
    r"No space left": "free some space where its artifacts are",
    r"database is locked": "end the other process that holds its database",
    r"out-of-date database schema": "run `mlflow db upgrade` with the MLflow that is installed here",
    r"Can't locate revision": "a newer MLflow made its database: install that, or use another tracking.uri",
    r"No module named '(psycopg|MySQLdb|pymysql|pyodbc|oracledb|cx_Oracle)": _DRIVER,
    r"No module named '": "install the module that it names, here or at the server, whichever says so",
    r"no such column|has no column named": _SCHEMA,
    r"unable to open database file|disk I/O error|disk image is malformed": (
        "check the file and its folder, restore it, or name another in tracking.uri"
    ),
    r"\b413 (Client Error|Request Entity|Payload|Content)": (
        "the server, or the proxy before it, takes no files so large: have its limit raised"
    ),
    r"must be in the 'active' state": "it was deleted: restore it in MLflow, or use another --run-id",
    r"password authentication failed|Access denied for user": "correct user and password in tracking.uri",
    r"database \"\S+\" does not exist|Unknown database": "create that database, or name one that exists",
    r"permission denied for": "let the database's user create and write tables there",
    r"Name or service not known|failed to resolve|could not translate host name": _ADDRESS,
    r"[Cc]onnection refused": "start it again",
    r"[Rr]ead timed out": ("it is overloaded, or away: try again, or raise MLFLOW_HTTP_REQUEST_TIMEOUT"),
    r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER": _TLS,
    r"Cannot connect to proxy|Tunnel connection failed": _PROXY,
}
"""Pattern in the error's text -> what to do."""

_CODES = {
    _LATER: """
        TEMPORARILY_UNAVAILABLE SERVICE_UNDER_MAINTENANCE WORKSPACE_TEMPORARILY_UNAVAILABLE DEADLINE_EXCEEDED
        CANCELLED ABORTED RESOURCE_EXHAUSTED REQUEST_LIMIT_EXCEEDED COULD_NOT_ACQUIRE_LOCK""",
    _ITS_LOG: "INTERNAL_ERROR IO_ERROR DATA_LOSS",
    _VERSION: """
        BAD_REQUEST INVALID_PARAMETER_VALUE ENDPOINT_NOT_FOUND MALFORMED_REQUEST FEATURE_DISABLED
        UNPARSEABLE_HTTP_ERROR NOT_IMPLEMENTED""",
    _LOGIN: "UNAUTHENTICATED",
    _RIGHT: "PERMISSION_DENIED CUSTOMER_UNAUTHORIZED",
    _CHANGED: """
        ALREADY_EXISTS INVALID_STATE RESOURCE_CONFLICT INVALID_STATE_TRANSITION RESOURCE_ALREADY_EXISTS""",
    _GONE: "NOT_FOUND RESOURCE_DOES_NOT_EXIST",
    _FULL: "QUOTA_EXCEEDED RESOURCE_LIMIT_EXCEEDED MAX_LIST_SIZE_EXCEEDED",
    _DATABRICKS: """
        MAX_BLOCK_SIZE_EXCEEDED MAX_READ_SIZE_EXCEEDED PARTIAL_DELETE DRY_RUN_FAILED DIRECTORY_NOT_EMPTY
        DIRECTORY_PROTECTED MAX_NOTEBOOK_SIZE_EXCEEDED MAX_CHILD_NODE_SIZE_EXCEEDED SEARCH_QUERY_TOO_LONG
        SEARCH_QUERY_TOO_SHORT MANAGED_RESOURCE_GROUP_DOES_NOT_EXIST PERMISSION_NOT_PROPAGATED
        DEPLOYMENT_TIMEOUT GIT_CONFLICT GIT_UNKNOWN_REF GIT_SENSITIVE_TOKEN_DETECTED GIT_URL_NOT_ON_ALLOW_LIST
        GIT_REMOTE_ERROR PROJECTS_OPERATION_TIMEOUT IPYNB_FILE_IN_REPO INSECURE_PARTNER_RESPONSE
        MALFORMED_PARTNER_RESPONSE METASTORE_DOES_NOT_EXIST DAC_DOES_NOT_EXIST CATALOG_DOES_NOT_EXIST
        SCHEMA_DOES_NOT_EXIST TABLE_DOES_NOT_EXIST SHARE_DOES_NOT_EXIST RECIPIENT_DOES_NOT_EXIST
        STORAGE_CREDENTIAL_DOES_NOT_EXIST EXTERNAL_LOCATION_DOES_NOT_EXIST PRINCIPAL_DOES_NOT_EXIST
        PROVIDER_DOES_NOT_EXIST METASTORE_ALREADY_EXISTS DAC_ALREADY_EXISTS CATALOG_ALREADY_EXISTS
        SCHEMA_ALREADY_EXISTS TABLE_ALREADY_EXISTS SHARE_ALREADY_EXISTS RECIPIENT_ALREADY_EXISTS
        STORAGE_CREDENTIAL_ALREADY_EXISTS EXTERNAL_LOCATION_ALREADY_EXISTS PROVIDER_ALREADY_EXISTS
        CATALOG_NOT_EMPTY SCHEMA_NOT_EMPTY METASTORE_NOT_EMPTY PROVIDER_SHARE_NOT_ACCESSIBLE""",
}

_CLASSES = {
    # requests
    _NETWORK: "ConnectionError ConnectTimeout Timeout ReadTimeout ChunkedEncodingError",
    _OVERLOADED: "RetryError",  # of answers 429 and 5xx, which came again and again
    _LOGIN: "InvalidHeader",  # a line's end in a token
    _REFUSED: "HTTPError",
    _PROXY: "ProxyError InvalidProxyURL",
    _TLS: "SSLError",
    _ADDRESS: """
        MissingSchema InvalidSchema InvalidURL URLRequired InvalidUrlException ArgumentError""",
    _NO_SERVER: """
        TooManyRedirects ContentDecodingError InvalidJSONError JSONDecodeError""",
    _LIBRARY: """
        RequestException StreamConsumedError UnrewindableBodyError
        MlflowException RestException ExecutionException MissingConfigException
        MlflowNotImplementedException MlflowTracingException MlflowTraceDataException
        MlflowTraceDataCorrupted MlflowTraceDataNotFound MlflowTraceArchivalMalformedTrace
        SQLAlchemyError AmbiguousColumnError AmbiguousForeignKeysError AwaitRequired
        CircularDependencyError CompileError ConstraintColumnNotFoundError DuplicateColumnError
        EmulatedDBAPIException IdentifierError IllegalStateChangeError InvalidRequestError MissingGreenlet
        MultipleResultsFound NoForeignKeysError NoInspectionAvailable NoReferenceError
        NoReferencedColumnError NoReferencedTableError NoResultFound ObjectNotExecutableError
        NotSupportedError StatementError UnboundExecutionError
        UnsupportedCompilationError ConcurrentModificationError DetachedInstanceError FlushError
        LoaderStrategyException MappedAnnotationError ObjectDereferencedError UnmappedClassError
        UnmappedColumnError UnmappedError UnmappedInstanceError""",
    # SQLAlchemy
    _DRIVER: "NoSuchModuleError NoDBAPILoaded",
    _DATABASE: """
        OperationalError InterfaceError DBAPIError DatabaseError DisconnectionError InvalidatePoolError""",
    _SCHEMA: """
        ProgrammingError DataError InternalError NoSuchTableError NoSuchColumnError
        UnreflectableTableError""",
    _CHANGED: "IntegrityError StaleDataError ObjectDeletedError",
    _LATER: "TimeoutError PendingRollbackError ResourceClosedError",
}

LIBRARIES = ("mlflow", "requests", "sqlalchemy")
"""Whose classes `CLASSES` has."""

CODES = {code: remedy for remedy, codes in _CODES.items() for code in codes.split()}
"""MLflow's error code -> what to do."""

CLASSES = {name: remedy for remedy, names in _CLASSES.items() for name in names.split()}
"""Name of an exception's class, of MLflow, requests or SQLAlchemy -> what to do."""


def remedy_of(error: BaseException) -> str:
    """What to do about `error`; empty where nothing is known of it.

    >>> remedy_of(RuntimeError("(sqlite3.OperationalError) database is locked"))
    'end the other process that holds its database'
    """
    causes = causes_of(error)
    text = " ".join(map(str, causes))
    by_text = (remedy for pattern, remedy in BY_TEXT.items() if re.search(pattern, text))
    # MLflow says INTERNAL_ERROR of whatever failed below it.
    by_class = (row for each in causes if (row := _row(each)) not in ("", _LIBRARY))
    by_code = (CODES[code] for each in causes if (code := getattr(each, "error_code", None)) in CODES)
    return next(chain(by_text, by_class, by_code), "") or next(filter(None, map(_row, causes)), "")


def _row(error: BaseException) -> str:
    """Of its class, or of the nearest one above it; other libraries have classes of the same names."""
    for kind in type(error).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in LIBRARIES and kind.__name__ in CLASSES:
            return CLASSES[kind.__name__]
        if library in ("botocore", "boto3", "s3transfer"):
            return _ARTIFACTS
    return ""
