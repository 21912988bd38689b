"""One submitted run: its job, what it left in S3 and in MLflow, and whether that is as it should be."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_hosts import API, BIN, WORKERS, RayHosts
from servers import end, wait_until

EXPERIMENT = Path(__file__).parent / "small_digits.yaml"
TRAINED = ("teacher-0", "teacher-1", "control", "student")


class Job:
    """A run under `run_id`, submitted from the desk; submitted again it continues."""

    def __init__(self, cluster: RayHosts, run_id: str, *settings: str) -> None:
        self.cluster, self.run_id, self.settings = cluster, run_id, settings
        self.process: subprocess.Popen | None = None
        self.submissions = 0

    def command(self) -> list[str]:
        """The experiment as `ekd run` and `ekd submit` take it."""
        settings = [word for setting in self.settings for word in ("--set", setting)]
        return [str(EXPERIMENT), "--run-id", self.run_id, *settings]

    def submit(self) -> "Job":
        """`ekd submit`, which follows the log."""
        self.submissions += 1
        self._log = f"{self.run_id}-{self.submissions}.log"
        self.process = self.cluster.desk.start(
            str(BIN / "ekd"), "submit", *self.command(), "--address", API, log=self._log
        )
        return self

    @property
    def log(self) -> str:
        """What the last submission has shown so far."""
        return (self.cluster.desk.folder / self._log).read_text()

    def wait(self, timeout_s: float = 600) -> int:
        """The exit status of the submission."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.run_id} has not ended after {timeout_s} s:\n{self.log}") from None

    def finish(self, timeout_s: float = 600) -> dict:
        """Wait for its success; what it made."""
        status = self.wait(timeout_s)
        assert status == 0, f"exit status {status}\n{self.log}"
        return self.result()

    def close(self) -> None:
        """Let go of it."""
        end(self.process)

    def clear_away(self) -> None:
        """Stop what a failed test left running, or the next would wait for its workers."""
        done = self.process is not None and self.process.poll() == 0
        self.close()
        for job in [] if done else re.findall(r"submitting job (\S+) to", self.log):
            self.cluster.desk.call(
                *(str(BIN / "ray"), "job", "stop", "--address", API, "--no-wait", job), timeout_s=60
            )

    def wait_for_checkpoint(self, name: str, epoch: int) -> float:
        """Seconds until the training run `name` has stored a checkpoint of that epoch or a later one."""

        def there() -> bool:
            ended = self.process is not None and self.process.poll() is not None
            found = self.reached(name) >= epoch
            assert found or not ended, f"it ended before {name} had trained for {epoch} epochs:\n{self.log}"
            return found

        return wait_until(there, f"a checkpoint of {name} after epoch {epoch}", log=self)

    def reached(self, name: str) -> int:
        """`newest_epoch` of a job that must not have failed."""
        if self.process is not None and self.process.poll() not in (None, 0):
            raise AssertionError(f"{self.run_id} ended:\n{self.log}")
        return self.newest_epoch(name)

    def newest_epoch(self, name: str) -> int:
        """The epochs before the newest checkpoint of a training run, maybe within the next; -1: none."""
        keys = self.cluster.store.keys(f"ekd/{self.run_id}/checkpoints/{name}/epoch-")
        return max(
            (int(m[1]) for key in keys if (m := re.search(r"epoch-(\d+)(_\d+)?\.json$", key))), default=-1
        )

    def training_hosts(self) -> list[str]:
        """The names of the hosts on which workers train, the head first."""
        return [name for name in ("head", *WORKERS) if self.cluster.hosts[name].processes("RayTrainWorker")]

    @contextmanager
    def training_paused(self) -> Iterator[None]:
        """Within, the processes that train now stand still; the driver goes on waiting for them."""
        with paused(self.trainers()):
            yield

    @contextmanager
    def training_slowed(self) -> Iterator[None]:
        """Within, the processes that train now work for a tenth of the time, and answer polls."""
        over, pids = threading.Event(), self.trainers()

        def brake() -> None:
            while not over.is_set():
                with paused(pids):
                    over.wait(0.9)
                over.wait(0.1)

        thread = threading.Thread(target=brake)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def trainers(self) -> list[int]:
        """The processes that train, as seen from outside."""
        hosts = self.cluster.hosts
        return [pid for name in self.training_hosts() for pid in hosts[name].processes("RayTrainWorker")]

    def driver(self) -> int:
        """The process on the head that owns the run; others (Ray's shell around it) look alike."""
        owner = json.loads(self.cluster.store.read(f"ekd/{self.run_id}/owner.json"))
        found = [
            pid
            for pid in self.cluster.hosts["head"].processes("-m orchestrator run")
            if Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]
            == str(owner["pid"])
        ]
        assert len(found) == 1, (owner, found)
        return found[0]

    def manifest(self) -> dict:
        """`manifest.json` as stored."""
        return json.loads(self.cluster.store.read(f"ekd/{self.run_id}/manifest.json"))

    def weights(self) -> str:
        """The averaged student's fingerprint."""
        return self.manifest()["stages"]["average"]["outputs"]["weights_sha256"]

    def result(self) -> dict:
        """What must be the same whatever happened: weights, metrics; checked to be whole and single."""
        manifest = self.manifest()
        assert manifest["status"] == "done", manifest["status"]
        summary = json.loads(self.cluster.store.read(f"ekd/{self.run_id}/summary.json"))
        steps = self.check_tracking(summary["registered_model"])
        return {
            "weights": self.weights(),
            "predictors": {
                name: {split: values[split] for split in ("validation", "test")}
                for name, values in summary["predictors"].items()
            },
            "steps": steps,
        }

    def check_tracking(self, registered: dict) -> dict[str, list[int]]:
        """One parent, one child a training run, one version, all ended; the steps that were logged."""
        from mlflow import MlflowClient

        def look() -> dict[str, list[int]]:
            uri = self.cluster.tracking.uri
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment = client.get_experiment_by_name("small_digits")
            assert experiment.artifact_location == "s3://bucket/ekd/mlartifacts/small_digits"
            runs = client.search_runs([experiment.experiment_id], f"tags.`ekd.run_id` = '{self.run_id}'")
            parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
            assert len(parents) == 1, parents
            children = {run.info.run_name: run for run in runs if run not in parents}
            assert sorted(children) == sorted(TRAINED)
            assert len(runs) == len(TRAINED) + 1
            assert {run.info.status for run in runs} == {"FINISHED"}, {
                r.info.run_name: r.info.status for r in runs
            }
            versions = client.search_model_versions(
                f"name = 'ekd-matrix' and tags.`ekd.run_id` = '{self.run_id}'"
            )
            assert [version.version for version in versions] == [registered["version"]]
            steps = {}
            for name, run in children.items():
                history = client.get_metric_history(run.info.run_id, "averaged/accuracy")
                # MLflow sorts by time: what died with the head's disk is logged last, from the checkpoint.
                steps[name] = sorted(point.step for point in history)
                assert len(steps[name]) == len(set(steps[name])), steps
            return steps

        return self.cluster.inside(look)


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Within, these processes stand still, as far as they are there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
