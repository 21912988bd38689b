"""The torch process group of a lane, over the network interface that carries Ray's traffic.

Gloo resolves the host's *name*, which on many machines is 127.0.0.1 or an address that other
hosts cannot reach; the failure is then a controller error that no retry covers. So every worker
names the interface that has its node's Ray address before the process group is made.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

SIOCGIFADDR = 0x8915
"""The Linux request for an interface's IPv4 address (netdevice(7))."""


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


def name_interface() -> None:
    """Tell Gloo and NCCL, in this process, to use the interface of the node's Ray address.

    What the user has set stays.
    """
    import ray

    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)


class _AddressedTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class AddressedTorchConfig(TorchConfig):
    """Ray's `TorchConfig`, with the interface named first."""

    @property
    def backend_cls(self) -> type[_AddressedTorchBackend]:
        """The backend that does it."""
        return _AddressedTorchBackend
