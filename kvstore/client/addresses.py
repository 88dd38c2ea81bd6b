"""Addresses: their form, the default ports, and free ones for local clusters."""

from __future__ import annotations

import errno
import ipaddress
import random
import re
import socket
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "DEFAULT_BASE_PORT",
    "DEFAULT_CLIENTS",
    "peer_port",
    "client_port",
    "check_address",
    "check_dialled",
    "split_addresses",
    "with_port",
    "free_ports",
    "hold_ports",
]

DEFAULT_BASE_PORT = 7100
"""Server N takes base + 10·N for its peers and base + 10·N + 1 for clients."""

_EVERY = (ipaddress.IPv4Address(0), ipaddress.IPv6Address(0))
"""All addresses of a machine, to listen at."""
LOOPBACK = "127.0.0.1"
_HIGHEST_PORT = 65535
_TCP = re.compile(
    r"tcp://(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|\*|[\w.-]+):(?P<port>\d{1,5})", re.ASCII
)
_NAME = re.compile(r"(?=.{1,253}$)(?:[\w-]{1,63}\.)*(?!\d+\.?$)[\w-]{1,63}\.?", re.ASCII)
"""A host's name: its last part is no number."""
_IPC = re.compile(r"ipc://(?P<path>[^*\0][^\0]*)", re.DOTALL)
_MEMORY = re.compile(r"memory://[A-Za-z0-9_.-]+")
_IPC_LIMIT = 107
"""Bytes that Linux has for the path of a Unix socket."""


def peer_port(base: int, server: int) -> int:
    """Where server `server` listens for the other servers."""
    return base + 10 * server


def client_port(base: int, server: int) -> int:
    """Where server `server` listens for clients."""
    return base + 10 * server + 1


DEFAULT_CLIENTS = ",".join(
    f"tcp://{LOOPBACK}:{client_port(DEFAULT_BASE_PORT, server)}" for server in (1, 2, 3)
)
"""Where `paxon up` serves clients unless told otherwise."""


def check_address(address: str) -> str:
    """Return `address` if it has a form that Paxon takes, else raise ValueError with one sentence.

    The forms are tcp://HOST:PORT (IPv6 hosts in brackets) and ipc://PATH.
    """
    if type(address) is not str:
        raise ValueError(f"{address!r} is no address: write 'tcp://HOST:PORT' or 'ipc://PATH'")
    tcp = _TCP.fullmatch(address)
    if tcp is not None and (
        tcp["host"] == "*" or _NAME.fullmatch(tcp["host"]) or _number(tcp["host"])
    ):
        if not 0 < int(tcp["port"]) <= _HIGHEST_PORT:
            raise ValueError(f"{address!r}: ports run from 1 to {_HIGHEST_PORT}")
        return address
    ipc = _IPC.fullmatch(address)
    if ipc is not None:
        if len(ipc["path"].encode()) > _IPC_LIMIT:
            raise ValueError(
                f"{address!r}: the path is longer than the {_IPC_LIMIT} bytes of a Unix socket"
            )
        return address
    raise ValueError(f"{address!r} is no address: write tcp://HOST:PORT or ipc://PATH")


def check_dialled(address: str) -> str:
    """`check_address` for an address that others dial: it names one host, not all of one's own.

    (A client may ask for 0.0.0.0 all the same: that is its own machine.)
    """
    found = _TCP.fullmatch(check_address(address))
    if found and (found["host"] == "*" or _number(found["host"]) in _EVERY):
        raise ValueError(
            f"{address!r} stands for all addresses of a machine, and cannot be dialled: give the "
            "host's own (a server's peer_bind and client_bind say where it listens)"
        )
    return address


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The number that a host is given by; None for a name, and for what is neither."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def split_addresses(text: str) -> list[str]:
    """The addresses of a comma-separated list; a bare HOST:PORT means tcp. Raises ValueError.

    For clients, which reach servers of paxon.testing too, at memory://NAME.
    """
    parts = [part.strip() for part in text.split(",")]
    found = [part if "://" in part else f"tcp://{part}" for part in parts if part]
    if not found:
        raise ValueError("no address given: write tcp://HOST:PORT[,tcp://HOST:PORT…]")
    for part in found:
        if not _MEMORY.fullmatch(part):
            check_dialled(part) if "://*" in part else check_address(part)
    return found


def with_port(host: str, port: int) -> str:
    """The tcp address of a port on a host; brackets are put around an IPv6 address."""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return check_address(f"tcp://{host}:{port}")


def _ephemeral_start() -> int:
    """The first port that the kernel gives to outgoing connections."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8")
        return int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def free_ports(count: int, *, avoid: Iterable[int] = ()) -> list[int]:
    """`count` ports on loopback that nobody listens on now, drawn at random.

    They lie below the kernel's range for outgoing connections. Inside it, a peer that keeps trying
    to reach a killed server may be given the very port that it dials, connect to itself, and so
    keep the server from coming back.
    """
    high = _ephemeral_start() - 1
    low = 10_000 if high >= 20_000 else 1_024
    if high <= low:
        low, high = 10_000, _HIGHEST_PORT
    taken = set(avoid)
    found: list[int] = []
    draw = random.SystemRandom()
    for _ in range(200 * count):
        if len(found) == count:
            break
        port = draw.randint(low, high)
        if port not in taken and _is_free(port):
            found.append(port)
            taken.add(port)
    if len(found) < count:
        raise OSError(errno.EADDRINUSE, f"found only {len(found)} of {count} free ports")
    return found


def _is_free(port: int) -> bool:
    """Whether nobody has bound the port, not even to hold it (`hold_ports`)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def hold_ports(ports: Iterable[int]) -> list[socket.socket]:
    """Keep ports on loopback for servers that are to listen there now and after each restart.

    Until the sockets are closed, neither the kernel nor `free_ports`, in whatever process, gives
    these ports to anybody: they are bound, and nobody listens. A server can, because libzmq allows
    addresses to be used again (SO_REUSEADDR). A port that somebody has already is left out.
    """
    held = []
    for port in ports:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((LOOPBACK, port))
        except OSError:
            holder.close()
        else:
            held.append(holder)
    return held
