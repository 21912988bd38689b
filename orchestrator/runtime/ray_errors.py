"""What to do about an error of Ray: of its start, of the way to a running one, and of its own classes.

Pure, and tested as tables; a test walks all of Ray's classes.
"""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import causes_of

HEADS_TOKEN = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the token of the cluster's head"
)
ASK_THE_DOCTOR = "`ekd doctor` checks the cluster"

_BY_TEXT = {
    r"AF_UNIX path length|path length cannot exceed": (
        "shorten TMPDIR, or set RAY_TMPDIR to a short folder: sockets' names hold 107 characters"
    ),
    r"No space left on device|ENOSPC|disk is full": (
        "free some space where Ray keeps its session, or set RAY_TMPDIR to a folder on a larger disk"
    ),
    r"Could not find any running Ray instance": (
        "no Ray runs on this machine: start one (`ray start --head`), or unset RAY_ADDRESS and set "
        "cluster.address=local"
    ),
    r"[Vv]ersion mismatch": "install the same Ray and Python here and on the cluster",
    r"token|[Uu]nauthenticated|AuthenticationError": HEADS_TOKEN,
    r"object store memory|/dev/shm|shared memory": (
        "give this machine more shared memory (Docker: --shm-size=2g), or free some of /dev/shm"
    ),
    r"gcs_server_port": (
        "Ray's own processes did not come up in the 30 s that it gives them: end what keeps this machine busy"
    ),
    r"no answer within|[Cc]onnection refused|[Tt]imed out|DEADLINE|UNAVAILABLE|failed to connect": (
        "check that the cluster's head runs and answers (`ray status`), and start it again if it was stopped"
    ),
}
"""Pattern in an error's text -> what to do; the first that fits."""


@dataclass(frozen=True)
class Meaning:
    """Of a class of `ray.exceptions`: whether starting again may help, and what a user can do."""

    remedy: str
    transient: bool = True


_LOST = Meaning("a process or host of the cluster was lost: Ray's session logs say of which, and why")
_DATA_LOST = Meaning("what hosts share was lost with one of them: it is shared again when all start again")
_FULL = Meaning(
    "Ray's memory for shared data is full: give the cluster more (`ray start --object-store-memory`), or "
    "have images packed (data.pack)"
)
_DISK = Meaning(_BY_TEXT[r"No space left on device|ENOSPC|disk is full"])
_MEMORY = Meaning(
    "lower batch_size, raise training.accumulate, or train fewer runs at once (cluster.runs_at_once)",
    transient=False,
)
_NO_PLACE = Meaning("the cluster took its resources back: `ray status` shows what it has")
_SLOW = Meaning("the cluster is overloaded, or its head is: `ray status` shows what it does")
_ENDED = Meaning("somebody ended it from outside: give the same command again")
_ENVIRONMENT = Meaning(
    "a host could not set up what workers need: the message, or runtime_env_setup logs there, say what",
    transient=False,
)
_TOKEN = Meaning(HEADS_TOKEN, transient=False)
_OF_THE_CODE = Meaning("it is of the code that ran: the message says what")
_UNUSED = Meaning("it is of a part of Ray that ekd does not use: please report it")

_CLASSES = {
    _LOST: """
        RayActorError ActorDiedError ActorUnavailableError WorkerCrashedError NodeDiedError
        LocalRayletDiedError RpcError RaySystemError RayError ActorHandleNotFoundError""",
    _DATA_LOST: """
        ObjectLostError OwnerDiedError ObjectFetchTimedOutError ObjectReconstructionFailedError
        ObjectFreedError ReferenceCountingAssertionError PlasmaObjectNotAvailable""",
    _FULL: "ObjectStoreFullError",
    _DISK: "OutOfDiskError",
    _MEMORY: "OutOfMemoryError",
    _NO_PLACE: """
        ActorUnschedulableError TaskUnschedulableError ActorPlacementGroupRemoved
        TaskPlacementGroupRemoved""",
    _SLOW: "GetTimeoutError PendingCallsLimitExceeded",
    _ENDED: "TaskCancelledError AsyncioActorExit",
    _ENVIRONMENT: "RuntimeEnvSetupError",
    _TOKEN: "AuthenticationError",
    _OF_THE_CODE: "RayTaskError UserCodeException UnserializableException",
    _UNUSED: """
        CrossLanguageError ActorAlreadyExistsError ObjectRefStreamEndOfStreamError
        OufOfBandObjectRefSerializationException
        RayCgraphCapacityExceeded RayChannelError RayChannelTimeoutError RayDirectTransportError
        StreamingGeneratorReplayInconsistentError""",
}

MEANINGS = {name: meaning for meaning, names in _CLASSES.items() for name in names.split()}
"""By the name of a class of `ray.exceptions`."""


def advice(error: Exception) -> str:
    """What to do about `error`, by its cause and not by its class alone."""
    for each in causes_of(error):
        if isinstance(each, PermissionError):
            return _about_permission(each)
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return _BY_TEXT[r"No space left on device|ENOSPC|disk is full"]
        if isinstance(each, OSError) and each.errno == errno.EROFS:
            return _about_permission(each)
    text = " ".join(f"{type(each).__name__}: {each}" for each in causes_of(error))
    by_text = (remedy for pattern, remedy in _BY_TEXT.items() if re.search(pattern, text))
    return next(by_text, None) or remedy_in(text) or ASK_THE_DOCTOR


def remedy_in(text: str) -> str | None:
    """What to do about the first of Ray's own exceptions that `text` names; None: it names none.

    >>> remedy_in("WorkerGroupError: rank 1: ray.exceptions.OutOfDiskError: full")[:15]
    'free some space'
    """
    named = [MEANINGS[word] for word in re.findall(r"\w+", text) if word in MEANINGS and word != "RayError"]
    telling = (meaning for meaning in named if meaning is not _OF_THE_CODE)  # which wraps another
    return next((meaning.remedy for meaning in (*telling, *named)), None)


def _about_permission(error: OSError) -> str:
    name = str(error.filename or "")
    if not name:
        return "let this user read and write Ray's folders: ~/.ray and the one that RAY_TMPDIR names"
    if ".ray" in Path(name).parts or name == os.path.expanduser("~"):
        return (
            f"Ray keeps a token there: set HOME to a folder that this user may write, or let it write {name}"
        )
    return f"let this user use {name}, and every folder above it"
