"""The environment of the peers, `.venv-peers`: pip makes it when a benchmark first asks for it."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.turns import ROOT

FOLDER = ROOT / ".venv-peers"
PACKAGES = ("torch", "torchvision", "torchdistill==1.1.5", "torch-uncertainty==0.13.0")
INSTALL_TIMEOUT_S = 1800


class PeersUnavailable(RuntimeError):
    """The peers cannot be measured here; the message says why in one line."""


def peers_python() -> str:
    """The interpreter of an environment with `PACKAGES`, torch as in `constraints.txt`.

    Raises `PeersUnavailable` when it cannot be made, offline for example.
    """
    python, stamp = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    _call([sys.executable, "-m", "venv", str(FOLDER)])
    constraints = str(ROOT / "constraints.txt")
    install = ["install", "--quiet", "--retries", "1", "--constraint", constraints, *PACKAGES]
    _call([str(python), "-m", "pip", *install])
    stamp.write_text(wanted)
    return str(python)


def _call(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or str(error)).strip().splitlines()
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise PeersUnavailable(f"the peers could not be installed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeersUnavailable(f"the peers could not be installed: {error}") from error
