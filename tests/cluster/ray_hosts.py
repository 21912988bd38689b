"""Three Ray hosts, a host for S3 and one for MLflow, and the submission of jobs to them."""

import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from hosts import Host, Inside, Switch
from servers import KEY_ID, SECRET, ObjectStore, TrackingServer

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]
HEAD, WORKERS = "10.77.0.1", {"worker1": "10.77.0.2", "worker2": "10.77.0.3"}
S3, MLFLOW, DESK = "10.77.0.10", "10.77.0.11", "10.77.0.20"
API = f"http://{HEAD}:8265"


class RayHosts:
    """The cluster of the issue: a head that also works, and two workers, one CPU each."""

    def __init__(self) -> None:
        # Not below pytest's folders, which PostgreSQL's user may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix="ekd-hosts-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.token = secrets.token_hex(32)
        self._variables: dict[str, str] = {}
        self.switch = Switch()
        self.hosts: dict[str, Host] = {}
        self.store = ObjectStore(self._host("s3", S3))
        self.tracking = TrackingServer(self._host("mlflow", MLFLOW))
        self.desk = self._host("desk", DESK)
        self.inside = Inside(self.desk)
        self.start_head()
        for name in WORKERS:
            self.start_worker(name)

    def _host(self, name: str, address: str) -> Host:
        folder = self.folder / name
        (folder / "home" / ".aws").mkdir(parents=True, exist_ok=True)
        (folder / "home" / ".ray").mkdir(parents=True, exist_ok=True)
        (folder / "home" / ".ray" / "auth_token").write_text(self.token)
        self.write_keys(folder, KEY_ID, SECRET)
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
            # Without it a worker that joins does not read the token, although the head demands it.
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's 15 would leave next to nothing to workers on a machine that has other work.
            "RAY_worker_niceness": "0",
            # Each host would see the memory of the whole machine, and end workers for what others use of it.
            "RAY_memory_monitor_refresh_ms": "0",
            # The head declares a host dead after three checks without an answer: 14 s, not Ray's 65.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "4000",
            "RAY_health_check_failure_threshold": "3",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self._variables,
        }
        self.hosts[name] = Host(self.switch, name, address, folder, environment)
        return self.hosts[name]

    @staticmethod
    def write_keys(folder: Path, key_id: str, secret: str) -> None:
        """The host's source of credentials: the file that boto3 and pyarrow read."""
        (folder / "home" / ".aws" / "credentials").write_text(
            f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"
        )

    def another_host(self, name: str, address: str) -> Host:
        """A machine beside the cluster, of a user with the same token."""
        return self._host(name, address)

    def start_head(self) -> None:
        """A fresh head host."""
        head = self._host("head", HEAD)
        self._ray_start(head, "--head", "--port=6379", "--dashboard-host=0.0.0.0")

    def start_worker(self, name: str) -> None:
        """A fresh worker host, which joins the head."""
        host = self._host(name, WORKERS[name])
        self.join(name)
        assert host is self.hosts[name]

    def join(self, name: str) -> None:
        """Start Ray on a host that is up, as its service manager would."""
        self._ray_start(self.hosts[name], f"--address={HEAD}:6379", "--include-log-monitor=false")

    def _ray_start(self, host: Host, *arguments: str) -> None:
        done = host.call(
            *(str(BIN / "ray"), "start", *arguments, f"--node-ip-address={host.address}", "--num-cpus=1"),
            *("--object-store-memory=100000000", "--disable-usage-stats"),
            timeout_s=300,
        )
        assert done.returncode == 0, f"{host.name}: {done.stdout}\n{done.stderr}"

    def restart_with(self, **variables: str) -> None:
        """The same cluster, from fresh hosts that have these variables in their environment."""
        self._variables = variables
        for name in ("head", *WORKERS):
            self.hosts[name].destroy()
        self.desk.environment |= variables
        self.start_head()
        for name in WORKERS:
            self.start_worker(name)

    def disks(self) -> list[str]:
        """Ray's folder of every host, as seen from outside."""
        return [str(self.hosts[name].files / "tmp" / "ray") for name in ("head", *WORKERS)]

    def make_whole(self) -> None:
        """Bring back what a fault has taken away: every host is up, and Ray on it."""
        if not self.hosts["head"].processes("gcs_server"):
            self.hosts["head"].destroy()
            for name in WORKERS:
                self.hosts[name].destroy()
            self.start_head()
        for name in WORKERS:
            if not self.hosts[name].processes("raylet/raylet"):
                self.hosts[name].destroy()
                self.start_worker(name)
        for name in ("head", *WORKERS):
            self.hosts[name].free_disk()

    def nodes_alive(self) -> int:
        """How many hosts the head counts as alive."""
        answer = self.desk.call(str(BIN / "ray"), "list", "nodes", "--address", API, "--format", "json")
        if answer.returncode:
            return 0
        return sum(node["state"] == "ALIVE" for node in json.loads(answer.stdout))

    def close(self) -> None:
        self.inside.close()
        self.store.close()
        for host in self.hosts.values():
            host.destroy()
        self.switch.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
