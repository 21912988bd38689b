"""What identifies a registered model: the code that made it, its weights, what loads it."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE_TAG = "ekd.architecture"
"""On a registered version: the student's architecture, as JSON."""
PRUNED_TAG = "ekd.pruned"
"""On a registered version whose student was pruned: the share."""

_PACKAGE = Path(__file__).resolve().parents[1]


def code_version(package: Path = _PACKAGE) -> str:
    """The commit of this code (`-dirty` if it was changed since), else the installed version.

    EKD_CODE_VERSION goes before both: `ekd submit` sends the sources without their repository.

    The installed version also where the code lies in a repository that does not track it,
    such as a virtual environment inside another project.
    """
    if submitted := os.environ.get("EKD_CODE_VERSION"):
        return submitted
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        described = _git(package, "describe", "--always", "--dirty", "--abbrev=12")
        if described:
            return described
    try:
        return version("ekd")
    except PackageNotFoundError:
        return "unknown"


def lineage_tags(
    *, teacher_run_ids: Sequence[str], data_fingerprint: str, experiment_hash: str, code: str
) -> dict[str, str]:
    """The tags that say what a version was made from.

    >>> sorted(lineage_tags(teacher_run_ids=["a", "b"], data_fingerprint="f", experiment_hash="e", code="c"))
    ['ekd.code_version', 'ekd.data_fingerprint', 'ekd.experiment_hash', 'ekd.teacher_run_ids']
    """
    return {
        "ekd.teacher_run_ids": ",".join(teacher_run_ids),
        "ekd.data_fingerprint": data_fingerprint,
        "ekd.experiment_hash": experiment_hash,
        "ekd.code_version": code,
    }


def weights_sha256(module: "nn.Module") -> str:
    """SHA-256 of the state dict: names, types, shapes and bytes, whatever the device."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def loading_requirements() -> tuple[str, ...]:
    """All that loading a registered student needs, pinned to what it was saved with."""
    return tuple(f"{name}=={version(name).split('+')[0]}" for name in ("torch", "mlflow"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *arguments], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
