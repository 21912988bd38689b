"""The torch process group of all workers, over the network interface that carries Ray's traffic.

Gloo resolves the host's *name*, which on many machines is 127.0.0.1 or an address that other hosts cannot
reach. So every worker names the interface that has its node's address before the process group is made.
"""

import fcntl
import os
import socket
import struct
from datetime import timedelta
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

SIOCGIFADDR = 0x8915
"""The Linux request for an interface's IPv4 address (netdevice(7))."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a worker waits for the others in a collective operation; the default of Ray's `TorchConfig`."""


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


def rendezvous_url(address: str) -> str:
    """Where workers can meet: `address`, which is this node's, and a port that is free on it now."""
    with socket.socket(_family(address)) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def join(url: str, address: str, rank: int, size: int, device: torch.device) -> None:
    """Make this process number `rank` of the `size` that meet at `url`: NCCL between GPUs, else Gloo.

    `address` is this node's; the interface that has it is used, unless the user has named another one.
    Raises what `torch.distributed` raises if not all come.
    """
    interface = interface_of(address)
    if interface is not None:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Torch's own would listen on all of the host's addresses, and the store asks nobody who they are.
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    listening = _listening(place.hostname, place.port) if rank == 0 else None
    store = dist.TCPStore(
        place.hostname, place.port, size, rank == 0, COLLECTIVE_TIMEOUT, master_listen_fd=listening
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)


def _listening(host: str, port: int) -> int:
    """The file descriptor, which becomes the store's, of a socket that listens on that address alone."""
    return socket.create_server((host, port), family=_family(host)).detach()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
