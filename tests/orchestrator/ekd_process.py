"""`ekd run` as a user starts it: a process of its own, with Ray's processes around it, and ways to end it."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

MARK = "EKD_TEST_PROCESS"
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "data": {
        "name": "digits",
        "train_size": 100,
        "validation_size": 50,
        "test_size": 60,
        "augmentation": {"crop_padding": 1},
    },
    "teachers": {
        "count": 2,
        "architecture": {"name": "wide_resnet", "depth": 10, "stem_channels": 4},
        "training": {"epochs": 30, "batch_size": 20, "learning_rate": 0.03, "checkpoint_every": 4},
    },
    "student": {
        "method": "latent_be",
        "members": 2,
        "architecture": {"name": "wide_resnet", "depth": 10, "stem_channels": 4},
        "training": {"epochs": 100, "batch_size": 20, "learning_rate": 0.03, "checkpoint_every": 4},
    },
    "perturbation": {"kind": "tdiv_sdiv"},
}
"""Seconds of training, with checkpoints at which it can be cut off."""


class EkdRun:
    """A run in its own folder, which can be started several times."""

    RUN_ID = "the-run"

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        self.folder, self.settings = folder, tuple(settings)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        self.storage = folder / "runs" / self.RUN_ID
        self.starts = 0

    def start(self, settings: Sequence[str] = ()) -> "Started":
        self.starts += 1
        mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "orchestrator", "run", "small.yaml", "--run-id", self.RUN_ID]
        chosen = ["cluster.address=local", "storage.uri=runs", *self.settings, *settings]
        command += [part for setting in chosen for part in ("--set", setting)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        log = self.folder / f"start-{self.starts}"
        with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment | {MARK: mark, "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Started(process, mark, log)

    def read(self, key: str) -> bytes:
        return (self.storage / key).read_bytes()

    def manifest(self) -> dict[str, Any]:
        path = self.storage / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {"stages": {}}

    def summary(self) -> dict[str, Any]:
        return json.loads(self.read("summary.json"))

    def exists(self, key: str) -> bool:
        return (self.storage / key).exists()

    def checkpoints(self, name: str) -> list[Path]:
        return sorted((self.storage / "checkpoints" / name).glob("epoch-*.json"))

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/runs/mlflow.db")

    def mlflow_runs(self) -> tuple[Run, dict[str, Run]]:
        """The parent and its children by name; fails if any is there twice."""
        client = self.client()
        (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
        runs = client.search_runs([experiment.experiment_id])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        by_name = {run.info.run_name: run for run in children}
        assert len(by_name) == len(children) == len(runs) - 1
        return parent, by_name

    def metric_history(self, run: Run) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every metric, in the order of steps; fails if a step is there twice."""
        client = self.client()
        found = {}
        for name in run.data.metrics:
            points = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
            assert len({step for step, _ in points}) == len(points)
            found[name] = points
        return found


class Started:
    """One start of a run."""

    def __init__(self, process: subprocess.Popen, mark: str, log: Path) -> None:
        self.process, self.mark, self.log = process, mark, log

    @property
    def out(self) -> str:
        return Path(f"{self.log}.out").read_text()

    @property
    def err(self) -> str:
        return Path(f"{self.log}.err").read_text()

    def wait(self, timeout_s: float = 600) -> int:
        """Its exit status; whatever it leaves behind is killed."""
        try:
            return self.process.wait(timeout_s)
        finally:
            self.kill()

    def until(self, holds: Callable[[], Any], timeout_s: float = 600) -> None:
        """Wait for something that it does; fails if it ends before."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.err}"
            assert time.monotonic() < deadline, f"not in time:\n{self.err}"
            time.sleep(0.05)

    def members(self) -> dict[int, str]:
        """Its process, Ray's daemons and all workers: command lines by process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                ours = session == self.process.pid or self.mark.encode() in (folder / "environ").read_bytes()
                if ours:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
            except (OSError, ValueError, IndexError):
                continue  # it has just ended, or is somebody else's
        return found

    def kill(self) -> None:
        """`kill -9` all of it at once."""
        deadline = time.monotonic() + 120
        while (members := self.members()) and time.monotonic() < deadline:
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.poll()
            if all(_has_ended(pid) for pid in members):
                break
            time.sleep(0.05)
        self.process.wait(120)

    def pause_training(self) -> None:
        """Stop the processes that train where they are; the driver goes on waiting for them."""
        for pid in self._workers():
            os.kill(pid, signal.SIGSTOP)

    def go_on_training(self) -> None:
        """Let them go on."""
        for pid in self._workers():
            os.kill(pid, signal.SIGCONT)

    def kill_a_worker(self) -> None:
        """`kill -9` one of the processes that train, as soon as it is seen, and nothing else."""
        (pid, *_) = self._workers()
        os.kill(pid, signal.SIGKILL)

    def _workers(self) -> list[int]:
        """While one is called, its title is that of the call: so they are looked for until they are seen."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = [pid for pid, command in self.members().items() if "RayTrainWorker" in command]
            return bool(found)

        self.until(seen)
        return found

    def interrupt(self, number: signal.Signals) -> int:
        """Its exit status after a signal to the driver alone."""
        os.kill(self.process.pid, number)
        return self.wait()


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
