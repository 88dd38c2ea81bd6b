"""Binding and connecting with errors that a person can act on."""

from __future__ import annotations

import errno
import socket as sockets
from pathlib import Path

import zmq

from paxon.transport.errors import TransportError

__all__ = ["bind", "connect"]

_FORM = "write it as tcp://host:port or ipc://path"
_ADVICE = {
    errno.EADDRINUSE: "it is in use: stop the program that listens there or choose another port",
    errno.EACCES: "this user may not listen there: choose a port above 1023 or a writable folder",
    errno.EPERM: "this user may not listen there: choose a port above 1023 or a writable folder",
    errno.EADDRNOTAVAIL: "no network interface of this machine has that address: correct the host",
    errno.ENODEV: "no network interface of this machine has that address: correct the host",
    errno.ENOENT: "the folder of the socket's path does not exist: create it first",
    errno.ENOTDIR: "the folder of the socket's path does not exist: create it first",
    errno.ENAMETOOLONG: "the socket's path is too long: use a folder with a shorter path",
    errno.EINVAL: f"it is not a valid address: {_FORM}",
    errno.EPROTONOSUPPORT: f"it is not a valid address: {_FORM}",
}


def bind(socket: zmq.Socket[bytes], address: str, name: str) -> None:
    """Bind `socket`; `name` is what people call it. Raises `TransportError`."""
    try:
        _check_form(address)
        if address.startswith("ipc://"):
            _refuse_taken_path(address)
        if address.startswith("tcp://["):  # an IPv4 port opened with it would be a mapped one
            socket.setsockopt(zmq.IPV6, 1)
        socket.bind(address)
    except (OSError, zmq.ZMQError) as error:
        raise _explain(f"cannot open the {name} at {address}", error.errno, str(error)) from error


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Start connecting `socket`. Raises `TransportError` for an address of the wrong form."""
    try:
        _check_form(address)
        socket.setsockopt(zmq.IPV6, 1)
        socket.connect(address)
    except zmq.ZMQError as error:
        raise _explain(f"cannot connect to {address}", error.errno, str(error)) from error


def _check_form(address: str) -> None:
    """Refuse what libzmq would take in some other sense, such as a port number of 99999."""
    scheme, separator, rest = address.partition("://")
    _, _, port = rest.rpartition(":")
    valid = {
        "ipc": bool(rest),
        "tcp": port == "*" or (port.isascii() and port.isdigit() and int(port) < 1 << 16),
    }
    if not separator or not valid.get(scheme, False):
        raise zmq.ZMQError(errno.EINVAL)


def _refuse_taken_path(address: str) -> None:
    """libzmq would take the path over from a live listener in silence; a stale file is fine."""
    path = address.removeprefix("ipc://")
    if path in ("", "*") or path.startswith("@") or not Path(path).exists():
        return
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, "in use")


def _explain(what: str, number: int | None, text: str) -> TransportError:
    return TransportError(f"{what}: {_ADVICE.get(number or 0, text)}")
