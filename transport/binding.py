"""Binding and connecting with errors that a person can act on."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket as sockets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from paxon.transport.errors import TransportError
from paxon.transport.log import logger

__all__ = [
    "AWAITED_SECONDS",
    "bind",
    "dial",
    "dialled",
    "in_ephemeral_range",
    "is_dialable",
    "is_host_name",
    "others_of",
    "same_place",
    "why_not_listening",
]

AWAITED_SECONDS = 10.0
"""So long a port waits for this machine to have its address …"""
_LOOK_SECONDS = 0.1
"""… and looks every so often."""
_NO_ANSWER = (errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
"""Errors that do not say whether an address is this machine's: it was out of ports, for one."""
_SOURCE = "127.0.0.2"
_USUAL_RANGE = (32768, 60999)
"""The kernel's default of ports for outgoing connections, where it does not tell."""
_DIALLED = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]{1,253}):(?P<port>\d{1,5})", re.ASCII
)
_EVERY = (ipaddress.IPv4Address(0), ipaddress.IPv6Address(0))
_FORM = "write it as tcp://host:port or ipc://path"
_ADVICE = {
    errno.EADDRINUSE: "it is in use: stop the program that listens there or choose another port",
    errno.EACCES: "this user may not listen there: choose a port above 1023 or a writable folder",
    errno.EPERM: "this user may not listen there: choose a port above 1023 or a writable folder",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address: correct the host",
    errno.ENODEV: "no network interface of this machine has that address: correct the host",
    errno.EHOSTUNREACH: "its host is not known: correct the name, or see to the name service",
    errno.EEXIST: "a file of that name is there, which is no socket: choose another path",
    errno.ENOENT: "the folder of the socket's path does not exist: create it first",
    errno.ENOTDIR: "the folder of the socket's path does not exist: create it first",
    errno.ENAMETOOLONG: "the socket's path is too long: use a folder with a shorter path",
    errno.EINVAL: f"it is not a valid address: {_FORM}",
    errno.EPROTONOSUPPORT: f"it is not a valid address: {_FORM}",
}


def bind(
    socket: zmq.Socket[bytes], address: str, name: str, given_up: Callable[[], bool] = bool
) -> None:
    """Bind `socket`; `name` is what people call it. Raises `TransportError`.

    An address that this machine does not have yet is not waited for once `given_up`.
    """
    try:
        _check_form(address)
        if address.startswith("ipc://"):
            _refuse_taken_path(address)
        for each in _awaited(address, name, given_up):
            # An IPv4 port opened with it would be a mapped one.
            socket.setsockopt(zmq.IPV6, int(each.startswith("tcp://[")))
            socket.bind(each)
    except (OSError, zmq.ZMQError) as error:
        what = f"cannot open the {name} at {address}"
        if error.errno == errno.EADDRINUSE and in_ephemeral_range(address):
            what += " (which any outgoing connection may take)"
        unknown = error.errno == errno.ENODEV and not _resolved(address)
        raise _explain(what, errno.EHOSTUNREACH if unknown else error.errno, str(error)) from error


def why_not_listening(error: Exception) -> str:
    """Why some other port could not be opened, and what to do."""
    number = getattr(error, "errno", None) or 0
    if isinstance(error, sockets.gaierror | ValueError):  # not known, or no name has this form
        number = errno.EHOSTUNREACH
    return _ADVICE.get(number, os.strerror(number) if number else str(error))


def dial(socket: zmq.Socket[bytes], address: str, turn: int = 0) -> None:
    """Start connecting `socket`. Raises `TransportError` for an address of the wrong form.

    libzmq takes one address of a host name, of IPv6 if there is one, and stays with it. So `turn`
    says which kind: odd turns ask for IPv4 alone.
    """
    try:
        _check_form(address)
        socket.setsockopt(zmq.IPV6, int(turn % 2 == 0 or not is_host_name(address)))
        socket.connect(dialled(address))
    except zmq.ZMQError as error:
        raise _explain(f"cannot connect to {address}", error.errno, str(error)) from error


def dialled(address: str) -> str:
    """The string for libzmq to dial: with a source where the target could be this socket.

    Whoever dials a port of this machine on which nobody listens may be given that very port to dial
    from, if it lies in the range for outgoing connections: TCP then connects it to itself, and
    nobody else can listen there. From another loopback address that cannot happen.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if sys.platform != "linux" or not host.startswith("127.") or not in_ephemeral_range(address):
        return address
    source = _SOURCE if host != _SOURCE else "127.0.0.3"
    return f"tcp://{source}:0;{host}:{port}"


def in_ephemeral_range(address: str) -> bool:
    """Whether a tcp address has a port that the kernel also gives to outgoing connections."""
    port = address.rpartition(":")[2]
    if not address.startswith("tcp://") or not port.isdigit():
        return False
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8")
        low, high = (int(number) for number in text.split())
    except (OSError, ValueError):
        low, high = _USUAL_RANGE
    return low <= int(port) <= high


def is_dialable(address: str) -> bool:
    """Whether an address that was told by somebody has a form that can be dialled."""
    try:
        _check_form(address)
    except zmq.ZMQError:
        return False
    if not address.startswith("tcp://"):
        return not {"*", "\0"} & set(address)
    found = _DIALLED.fullmatch(address.removeprefix("tcp://"))
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        return False
    return not same_place(address).startswith("tcp://*")


def same_place(address: str) -> str:
    """An address in the one form of all that mean the same, as far as that shows."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not (address.startswith("tcp://") and port.isdecimal()):
        return address
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        number = None
    return f"tcp://{'*' if number in _EVERY else number or host.lower()}:{int(port)}"


def is_host_name(address: str) -> bool:
    """Whether a tcp address has a name, which may stand for several addresses, and not a number."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    if not address.startswith("tcp://") or host == "*" or host.startswith("["):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def others_of(address: str) -> list[str]:
    """The addresses of a name of which `dial` takes one alone. May take seconds to find out."""
    found = _resolved(address)
    kinds = Counter(family for family, _ in found.values())
    return [each for each, (family, _) in found.items() if kinds[family] > 1]


def _awaited(address: str, name: str, given_up: Callable[[], bool]) -> list[str]:
    """What to bind, once this machine has it.

    One that has just been started may come by its addresses, and know its own name, after its
    services have begun.
    """
    end = time.monotonic() + AWAITED_SECONDS
    said = False
    while not (here := _all_here(address)) and time.monotonic() < end and not given_up():
        if not said:
            logger.warning(
                "the {} is to be at {}, which is no address of this machine so far: looking again "
                "for {:.0f} s", name, address, AWAITED_SECONDS,
            )  # fmt: skip
        said = True
        time.sleep(_LOOK_SECONDS)
    return here or [address]  # which libzmq explains


def _all_here(address: str) -> list[str]:
    """Every address of this machine that is meant."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    interfaces = ("*", *(interface for _, interface in sockets.if_nameindex()))
    if not address.startswith("tcp://") or host in interfaces:
        return [address]
    here = [each for each, (family, where) in _resolved(address).items() if _is_here(family, where)]
    one_port = is_host_name(address) and not address.endswith((":0", ":*"))
    return here if one_port else here and [address]


def _resolved(address: str) -> dict[str, tuple[int, tuple[Any, ...]]]:
    """What a name stands for now: addresses, each with its kind and as Python has it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        found = sockets.getaddrinfo(host.strip("[]"), None, type=sockets.SOCK_STREAM)
    except (OSError, UnicodeError):  # not known, or no name could have this form
        return {}
    as_text = {True: "tcp://[{}]:{}", False: "tcp://{}:{}"}
    return {
        as_text[family == sockets.AF_INET6].format(where[0], port): (family, where)
        for family, _, _, _, where in found
    }


def _is_here(family: int, where: tuple[Any, ...]) -> bool:
    """Whether an interface of this machine has the address."""
    try:
        with sockets.socket(family, sockets.SOCK_STREAM) as probe:
            probe.bind((where[0], 0, *where[2:]))
    except OSError as error:
        return error.errno in _NO_ANSWER
    return True


def _check_form(address: str) -> None:
    """Refuse what libzmq would take in some other sense, such as a port number of 99999."""
    scheme, separator, rest = address.partition("://")
    _, _, port = rest.rpartition(":")
    valid = {
        "ipc": bool(rest),
        "tcp": port == "*" or (bool(re.fullmatch("[0-9]{1,5}", port)) and int(port) < 1 << 16),
    }
    if not separator or not valid.get(scheme, False):
        raise zmq.ZMQError(errno.EINVAL)


def _refuse_taken_path(address: str) -> None:
    """libzmq would take the path over from anything there, in silence; a stale socket is fine."""
    path = address.removeprefix("ipc://")
    if path in ("", "*") or path.startswith("@") or not Path(path).exists():
        return
    if not Path(path).is_socket():
        raise OSError(errno.EEXIST, "exists")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, "in use")


def _explain(what: str, number: int | None, text: str) -> TransportError:
    return TransportError(f"{what}: {_ADVICE.get(number or 0, text)}")
