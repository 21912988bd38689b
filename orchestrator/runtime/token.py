"""Ray's token: whoever has it may run code as this user, and Ray writes it for everybody to read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def token_file() -> Path:
    """Where Ray looks for its token: RAY_AUTH_TOKEN_PATH, else `~/.ray/auth_token`."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


@contextmanager
def private_token() -> Iterator[None]:
    """Within it Ray may make its token; afterwards only this user can read it."""
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # there is none, or it is not this user's
            file.chmod(0o600)


def token_warning() -> str | None:
    """Why the token is no secret and what to do, in one line; None if it is one, or there is none."""
    file = token_file()
    try:
        exposed = file.stat().st_mode & 0o077
    except OSError:
        return None
    return f"others can read Ray's token: chmod 600 {file}" if exposed else None
