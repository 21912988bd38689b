"""Hosts on one machine: namespaces (network, processes, mounts, name) joined by a switch.

Everything hangs on one process a host, its *init*: when that is killed the kernel kills every
process of the host and takes its network away, as pulling the plug does. All of them end with
this process, however it ends.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_KINDS = ("net", "mount", "pid", "uts", "ipc")
BURST = ("burst", "32kbit", "latency", "400ms")
"""Of a slow link: what goes at full speed, and how long a packet waits before it is dropped."""


def why_impossible() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    missing = [
        program
        for program in ("ip", "tc", "unshare", "nsenter", "mount", "setpriv")
        if shutil.which(program) is None
    ]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, util-linux)"
    kinds = [f"--{kind}" for kind in _KINDS]
    making = ["unshare", *kinds, "--fork", "ip", "link", "add", "probe", "type", "bridge"]
    probe = subprocess.run(making, check=False, capture_output=True, text=True)
    return (
        f"this kernel or container refuses namespaces: {probe.stderr.strip()}" if probe.returncode else None
    )


class Namespaces:
    """A set of namespaces that lives as long as its init."""

    def __init__(self, name: str, set_up: str) -> None:
        self.name = name
        # `trap '' CHLD` makes the kernel reap the orphans that fall to this init.
        script = f"set -e; hostname {name}; ip link set lo up; {set_up}; trap '' CHLD; exec sleep infinity"
        kinds = [f"--{kind}" for kind in _KINDS]
        unshare = ["unshare", *kinds, "--fork", "--kill-child=KILL", "--mount-proc"]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-c", script], stdin=subprocess.DEVNULL
        )
        self.init = self._wait_for_init()

    @property
    def files(self) -> Path:
        """Its file system, as seen from outside."""
        return Path("/proc", str(self.init), "root")

    def _wait_for_init(self) -> int:
        children = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"host {self.name} could not be set up"
            with open(children) as file:
                pids = file.read().split()
            if pids:
                with open(f"/proc/{pids[0]}/cmdline", "rb") as file:
                    if file.read().startswith(b"sleep\0"):
                        return int(pids[0])
            time.sleep(0.02)
        raise TimeoutError(f"host {self.name} is not up after 120 s")

    def enter(self, command: list[str], folder) -> list[str]:
        """`command` as it has to be called from outside to run inside, in `folder`."""
        kinds = [f"--{kind}" for kind in _KINDS]
        return ["nsenter", "--target", str(self.init), *kinds, f"--wdns={folder}", "--", *command]

    def ip(self, *arguments: str) -> None:
        """`ip` on this network, with process ids as they are outside."""
        self._network("ip", *arguments)

    def _network(self, *command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{self.init}/ns/net", *command], check=True)

    def destroy(self) -> None:
        """End the init, and with it all."""
        if self._process.poll() is None:
            os.kill(self.init, signal.SIGKILL)
            self._process.wait()


class Switch(Namespaces):
    """What the hosts' cables are plugged into."""

    def __init__(self) -> None:
        super().__init__("switch", "ip link add bridge type bridge; ip link set bridge up")


class Host(Namespaces):
    """A machine with an address, a folder, shared memory and Ray's /tmp/ray of its own."""

    def __init__(self, switch: Switch, name: str, address: str, folder, environment: dict[str, str]) -> None:
        self.switch, self.address, self.folder = switch, address, folder
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        os.makedirs("/tmp/ray", exist_ok=True)
        # As on many machines the host's own name is a loopback address.
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        self.environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL")},
            "HOME": str(home),
            **environment,
        }
        super().__init__(
            name,
            "mount -t tmpfs -o size=1g shm /dev/shm; "
            # A disk of its own, so that it can be filled.
            "mount -t tmpfs -o size=512m disk /tmp/ray; "
            f"mount --bind {folder}/hosts /etc/hosts",
        )
        port = f"port{address.rpartition('.')[2]}"
        self._port = port
        # A machine that is started again keeps its card: with another one, others send to the old for half
        # a minute.
        card = ":".join(f"{int(part):02x}" for part in ("2", "0", *address.split(".")))
        eth0 = ("peer", "name", "eth0", "address", card, "netns", str(self.init))
        switch.ip("link", "add", port, "type", "veth", *eth0)
        switch.ip("link", "set", port, "master", "bridge", "up")
        self.ip("address", "add", f"{address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")

    def call(self, *command: str, timeout_s: float = 300, **variables: str) -> subprocess.CompletedProcess:
        """Run `command` to its end and give its status and output."""
        return subprocess.run(
            self.enter(list(command), self.folder),
            env=self.environment | variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def start(self, *command: str, log: str, **variables: str) -> subprocess.Popen:
        """Start `command` and leave it running; its output goes to the file `log` of the host."""
        with open(self.folder / log, "ab") as file:
            return subprocess.Popen(
                self.enter(list(command), self.folder),
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, name: str) -> list[int]:
        """The ids, as seen from outside, of this host's processes whose command line holds `name`."""
        try:
            mine = os.readlink(f"/proc/{self.init}/ns/pid")
        except FileNotFoundError:
            return []  # the host is down
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") != mine:
                    continue
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if name in file.read().replace(b"\0", b" ").decode(errors="replace"):
                        found.append(int(pid))
            except OSError:
                continue
        return found

    def fill_disk(self) -> None:
        """Leave no byte free on the disk that Ray works on."""
        self.call("sh", "-c", "cat /dev/zero > /tmp/ray/filler")

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        self.call("rm", "-f", "/tmp/ray/filler")

    def unplug(self) -> None:
        """Cut the cable: packets are lost, nobody is told."""
        self.switch.ip("link", "set", self._port, "down")

    def plug_in(self) -> None:
        """Mend the cable."""
        self.switch.ip("link", "set", self._port, "up")

    @contextmanager
    def slow_link(self, rate: str = "4mbit") -> Iterator[None]:
        """Within, it sends no faster."""
        self._network("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, *BURST)
        try:
            yield
        finally:
            self._network("tc", "qdisc", "del", "dev", "eth0", "root")

    @contextmanager
    def without(self, other: "Host") -> Iterator[None]:
        """Within, packets between the two are lost; all others arrive."""
        self.ip("route", "add", "blackhole", f"{other.address}/32")
        try:
            yield
        finally:
            self.ip("route", "del", "blackhole", f"{other.address}/32")

    def pull_the_plug(self) -> None:
        """Lose power: first silence, so that no connection is closed, then every process is gone."""
        self.unplug()
        self.destroy()

    def destroy(self) -> None:
        """See `Namespaces.destroy`; the cable goes too."""
        super().destroy()
        with contextlib.suppress(subprocess.CalledProcessError):  # the kernel may have been quicker
            self.switch.ip("link", "delete", self._port)


class Inside:
    """Calls Python functions on a thread of this process whose network is a host's."""

    def __init__(self, host: Host) -> None:
        self._pool = ThreadPoolExecutor(1, initializer=self._move, initargs=(host,))

    def __call__(self, function, *arguments, **options):
        return self._pool.submit(function, *arguments, **options).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def _move(host: Host) -> None:
        with open(f"/proc/{host.init}/ns/net") as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
