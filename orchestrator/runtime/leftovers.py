"""What a Ray that a run started may leave behind: processes that outlive their driver, and old folders.

A process belongs to a session if it writes to a file of the session's folder, as all that Ray starts do.
Run as a program (`watch`) this module outlives a driver that is killed, and ends them; it imports the
standard library alone, and works on Linux alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_S = 10.0
"""How long the processes of a session may take to notice by themselves that their driver has ended."""

NOTE = "ekd-driver"
"""The file in a folder that says which process made it: its id, and when it began."""

SHELL_S = 600.0
"""How old a session has to be to be taken for a shell: between its folder and its files Ray takes less."""

_POLL_S = 0.2


def processes_of(session: Path) -> list[int]:
    """The ids of this user's processes, but this one, that write to files below `session`."""
    below = f"{session.resolve()}/"
    return [pid for pid in _pids() if pid != os.getpid() and _writes_below(pid, below)]


def end_processes_of(session: Path, grace_s: float = 0.0) -> None:
    """Kill what of a session has not ended within `grace_s`."""
    deadline = time.monotonic() + grace_s
    while left := processes_of(session):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline + GRACE_S:
                return  # what a kernel holds fast, nobody can end
        time.sleep(_POLL_S)


def guard(session: Path) -> "subprocess.Popen[bytes]":
    """A process that ends the session's other processes once this one has ended, however it ended.

    It is told by the pipe between them, which the system closes. It has a session of its own, so that what
    kills this process's group spares it.
    """
    sign(session)
    return _outliving("end", str(session), str(GRACE_S))


def afterwards(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """A small process that becomes `command` once this one has ended, as `guard` does, or closes its pipe.

    What this process can import, it can.
    """
    return _outliving("run", *command, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))


def _outliving(*arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, **variables},
    )


def sessions_of_this_process(parent: Path) -> set[Path]:
    """The folders that Ray has named after this process; older processes may have had its number."""
    named = parent.glob(f"session_*_{os.getpid()}")
    return {folder for folder in named if folder.is_dir() and not folder.is_symlink()}


def sweep_sessions(parent: Path) -> None:
    """`sweep` the sessions of Ray; those that hold nothing go too, as no logs are lost with them."""
    for session in parent.glob("session_*"):
        if not session.is_symlink() and _is_shell(session):
            shutil.rmtree(session, ignore_errors=True)
    sweep(parent, "session_*")


def sweep(parent: Path, names: str) -> None:
    """Remove folders of such names that ended processes of this user left, but the newest, for its logs."""
    old = [folder for folder in parent.glob(names) if not folder.is_symlink() and _is_left(folder)]
    for folder in sorted(old, key=lambda folder: folder.stat().st_mtime)[:-1]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch(prefix: str, *, keep: str = "") -> Iterator[Path]:
    """A temporary folder, removed in the end; those that killed processes have left are removed before.

    `keep`: a file in it for which it stays after an error.
    """
    sweep(Path(tempfile.gettempdir()), f"{prefix}*")
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    sign(folder)
    kept = False
    try:
        yield folder
    except BaseException:
        kept = bool(keep) and (folder / keep).exists()
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def sign(folder: Path) -> None:
    """Note that this process made `folder`; whenever it is killed, the note is whole or not there."""
    written = folder / f"{NOTE}.new"
    written.write_text(f"{os.getpid()} {_began(os.getpid())}")
    written.replace(folder / NOTE)


def _is_shell(session: Path) -> bool:
    """Whether a start of Ray that was killed at once left it: too early for a signature, or for a word.

    What `ray start` leaves is like it, but its processes wrote something first.
    """
    try:
        found, pid = session.stat(), session.name.rpartition("_")[2]
        return (
            found.st_uid == os.geteuid()
            and time.time() - found.st_mtime > SHELL_S
            and not (session / NOTE).exists()
            and not _began(int(pid))
            and not processes_of(session)
            and not any(
                file.is_file() and file.stat().st_size and file.name != f"{NOTE}.new"
                for file in session.rglob("*")
            )
        )
    except (OSError, ValueError):
        return False


def _is_left(session: Path) -> bool:
    note = session / NOTE
    try:
        if note.stat(follow_symlinks=False).st_uid != os.geteuid():
            return False
        pid, _, began = note.read_text()[:100].partition(" ")
        return _began(int(pid)) != began
    except (OSError, ValueError):
        return False


def _pids() -> Iterator[int]:
    with suppress(OSError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def _writes_below(pid: int, folder: str) -> bool:
    """By its standard output and error: others of a process's files may be anybody's."""
    for number in (1, 2):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(folder):
                return True
    return False


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def watch(what: str, *arguments: str) -> None:
    """Wait until standard input ends, with the process that holds its other end; then do what it wanted.

    `end`, a session and a grace: end the session's processes. `run`, and a command: become it.
    """
    sys.stdin.buffer.read()
    if what == "run":
        os.execv(arguments[0], arguments)
    session, grace_s = arguments
    end_processes_of(Path(session), float(grace_s))


if __name__ == "__main__":
    watch(*sys.argv[1:])
