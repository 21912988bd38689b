"""Whole `ekd run`s of packaged experiments made small, and one finished one that a test session shares."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DONE = "out"
"""In the folder of a finished run: what it printed. It is written last."""


def run_smoke(name: str, folder: Path, *settings: str) -> Path:
    """`ekd run NAME --smoke`, everything it leaves below `folder`, its stdout in `out`; `folder`."""
    chosen = ["cluster.address=local", "storage.uri=runs", *settings]
    command = [sys.executable, "-m", "orchestrator", "run", name, "--smoke", "--run-id", "smoke"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [*command, *(f"--set={setting}" for setting in chosen)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / DONE).write_text(done.stdout)
    return folder


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, made by `make` in the first of the processes that come here; the others wait for it."""
    folder.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / DONE).exists():
            make(folder)
    return folder
