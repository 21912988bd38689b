"""Whether a small experiment ends with the same bits at two commits: `make test-compat`.

`python tests/compat/two_commits.py [REF]`: at REF (default: $COMPAT_REF, else the last tag, else the commit
before) and at HEAD, each in a checkout of its own. Exit status 1 if the weights of any network differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).parents[2]
EXPERIMENT = Path(__file__).with_name("compat.yaml")
NETWORKS = ("teacher-0", "teacher-1", "control", "student", "averaged")


def git(*arguments: str) -> str:
    """What git says in this repository; raises `CalledProcessError`."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def reference() -> str:
    """The commit to compare HEAD with."""
    if given := (sys.argv[1] if len(sys.argv) > 1 else os.environ.get("COMPAT_REF")):
        return given
    try:
        return git("describe", "--tags", "--abbrev=0", "HEAD~1")
    except subprocess.CalledProcessError:
        return "HEAD~1"


def weights(ref: str, folder: Path) -> dict[str, bytes]:
    """The tensors of every network that the experiment ends with at `ref`, as bytes."""
    checkout, place = folder / f"{ref.replace('/', '-')}-code", folder / f"{ref.replace('/', '-')}-run"
    place.mkdir()
    git("worktree", "add", "--detach", str(checkout), ref)
    try:
        command = [sys.executable, "-m", "orchestrator", "run", str(EXPERIMENT), "--run-id", "compat"]
        settings = ["--set", "cluster.address=local", "--set", "storage.uri=runs"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *settings], cwd=place, env=environment, check=True)
    finally:
        git("worktree", "remove", "--force", str(checkout))
    return {name: _tensors(_file(place / "runs", name)) for name in NETWORKS}


def _file(runs: Path, name: str) -> Path:
    """Beside its record, or among the networks of all runs."""
    beside = runs / "compat" / "networks" / f"{name}.safetensors"
    record = json.loads(beside.with_suffix(".json").read_text())["record"]
    return beside if beside.exists() else runs / "networks" / f"{record['sha256']}.safetensors"


def _tensors(file: Path) -> bytes:
    """Names and values in the order of their names: a file's metadata may change, and does not count."""
    with safe_open(file, framework="numpy") as tensors:
        return b"".join(k.encode() + tensors.get_tensor(k).tobytes() for k in sorted(tensors.keys()))


def main() -> int:
    """Compare; the exit status."""
    ref = reference()
    with tempfile.TemporaryDirectory() as temporary:
        before, now = weights(ref, Path(temporary)), weights("HEAD", Path(temporary))
    differing = [name for name in NETWORKS if before[name] != now[name]]
    for name in NETWORKS:
        print(f"{name:10s} {'differs' if name in differing else 'the same bits'}")
    print(f"HEAD {git('rev-parse', '--short', 'HEAD')} against {ref} {git('rev-parse', '--short', ref)}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
