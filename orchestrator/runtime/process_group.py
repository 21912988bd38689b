"""The torch process group of a worker group, over the network interface that carries Ray's traffic.

Gloo resolves the host's *name*, which on many machines is 127.0.0.1 or an address that other
hosts cannot reach; the failure is then a controller error that no retry covers. So every worker
names the interface that has its node's Ray address before the process group is made.

Ray's own `TorchConfig` is not used because importing it imports torch, and Ray Train's controller, whose
start everything else waits for, has no other need of it: 2.4 s and 500 MB for each worker group.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

SIOCGIFADDR = 0x8915
"""The Linux request for an interface's IPv4 address (netdevice(7))."""

COLLECTIVE_TIMEOUT_S = 30 * 60
"""How long a worker waits for the others in a collective operation; `TorchConfig`'s default."""

END_TIMEOUT_S = 30
"""How long the end of the process group is waited for: workers whose peer has died may never leave it."""


def interface_of(address: str) -> str | None:
    """The name of this host's interface with that IPv4 address; None if there is none.

    >>> interface_of("127.0.0.1")
    'lo'
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def prepare() -> None:
    """Import what the process group needs, and tell Gloo and NCCL to use the interface of Ray's address.

    What the user has set stays.
    """
    import torch.distributed  # noqa: F401, seconds: before a port is chosen, not while it waits

    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)


def free_address() -> tuple[str, int]:
    """This node's Ray address, and a port that is free there and on every other address of the node."""
    address: str = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def join(backend: str, address: str, port: int, rank: int, size: int) -> None:
    """Make this process number `rank` of the `size` that meet at `address:port`."""
    import torch.distributed as dist

    url = f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend, init_method=url, rank=rank, world_size=size, timeout=timeout)


def destroy() -> None:
    """Leave the process group, so that NCCL frees what it holds."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _form(worker_group: Any) -> None:
    worker_group.execute(prepare)
    address, port = worker_group.execute_single(0, free_address)
    backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
    size = len(worker_group)
    ray.get(
        [
            worker_group.execute_single_async(rank, join, backend, address, port, rank, size)
            for rank in range(size)
        ]
    )


class _ProcessGroup(Backend):
    share_cuda_visible_devices = True
    """NCCL's workers of one node must see each other's GPUs."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """One process group of all workers: NCCL where they have GPUs, else Gloo.

        Raises `WorkerGroupStartupFailedError`, after which Ray Train tries again.
        """
        try:
            _form(worker_group)
        except (RayActorError, RayTaskError) as error:
            # Where one is lost the others fail too, and it is chance who is heard first; Ray Train tries
            # again after an actor's death only. And what it has started it would leave behind here, with
            # the CPUs that the next attempt needs.
            worker_group.shutdown()
            raise WorkerGroupStartupFailedError("the workers could not form a process group") from error

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Leave it, where there is more than one worker to leave."""
        if len(worker_group) > 1:
            with contextlib.suppress(GetTimeoutError):
                ray.get(worker_group.execute_async(destroy), timeout=END_TIMEOUT_S)


@dataclass
class ProcessGroupConfig(BackendConfig):
    """Ray Train's workers form a torch process group before they begin."""

    @property
    def backend_cls(self) -> type[_ProcessGroup]:
        """The backend that does it."""
        return _ProcessGroup
