"""What to do about an error of Ray's start, or of the way to a running Ray: pure, tested as a table."""

import errno
import os
import re
from pathlib import Path

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
    r"[Cc]onnection refused|[Tt]imed out|DEADLINE|UNAVAILABLE|failed to connect": (
        "check that the cluster's head runs and answers (`ray status`), and start it again if it was stopped"
    ),
}
"""Pattern in an error's text -> what to do; the first that fits."""


def advice(error: Exception) -> str:
    """What to do about `error`, by its cause and not by its class alone."""
    for each in _causes(error):
        if isinstance(each, PermissionError):
            return _about_permission(each)
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return _BY_TEXT[r"No space left on device|ENOSPC|disk is full"]
        if isinstance(each, OSError) and each.errno == errno.EROFS:
            return _about_permission(each)
    text = " ".join(f"{type(each).__name__}: {each}" for each in _causes(error))
    return next((remedy for pattern, remedy in _BY_TEXT.items() if re.search(pattern, text)), ASK_THE_DOCTOR)


def _about_permission(error: OSError) -> str:
    name = str(error.filename or "")
    if not name:
        return "let this user read and write Ray's folders: ~/.ray and the one that RAY_TMPDIR names"
    if ".ray" in Path(name).parts or name == os.path.expanduser("~"):
        return (
            f"Ray keeps a token there: set HOME to a folder that this user may write, or let it write {name}"
        )
    return f"let this user use {name}, and every folder above it"


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and what it came of, the nearest first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found
