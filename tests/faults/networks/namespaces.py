"""Servers and clients in network namespaces of their own, joined by veth pairs and bridges.

Here it is the kernel that does not deliver: TCP sees silence, retransmits, gives up, connects
anew. Needs root and iproute2; `no_namespaces` says what is missing.

Each host has an interface `data`, whose other end is a port of a bridge in the namespace of the
switch. Parts of a partition are bridges of their own; two ports of one bridge that are isolated
reach all others but not each other. A second network, for the watcher's questions alone, is never
broken.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from paxon.actors import ServerId
from paxon.kvstore import Client
from tests.faults.networks.commanded import Commanded, Process
from tests.faults.networks.network import MAIN, Node

__all__ = ["NamespacedCluster", "in_thread", "inside", "no_namespaces", "no_netem"]

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""From <sched.h>."""
DATA_NET, WATCH_NET = "10.77.0", "10.78.0"
PEER_PORT, CLIENT_PORT = 7110, 7111
PARTS = 4
"""Bridges: as many parts as a partition may have."""
DATA_BRIDGE, WATCH_BRIDGE = "part", "watch"


def enter(namespace: str) -> None:
    """Move this thread, and what it starts from now on, into a namespace."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
    finally:
        os.close(descriptor)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Do something in a namespace, in a thread of its own."""

    def run() -> T:
        enter(namespace)
        return work()

    return in_thread(run)


def in_thread(work: Callable[[], T]) -> T:
    """Do something in a thread of its own, which may leave this one's namespaces."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def ip(*words: str) -> None:
    """Run the `ip` command. Raises OSError with what it says."""
    _run("ip", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}` says {done.stderr.strip()!r}")


@cache
def no_namespaces() -> str:
    """Why there can be no namespaces here; "" if there can."""
    for tool in ("ip", "bridge"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` command: install iproute2"
    if os.geteuid() != 0:
        return "network namespaces take root's rights"
    try:
        with Switch(["a"]):
            return ""
    except OSError as error:
        return f"network namespaces cannot be made here: {error}"


@cache
def no_netem() -> str:
    """Why the kernel cannot lose and delay packets here; "" if it can."""
    if no_namespaces():
        return no_namespaces()
    if shutil.which("tc") is None:
        return "there is no `tc` command: install iproute2"
    try:
        with Switch(["a"]) as switch:
            switch.weather(loss=0.1, jitter=0.01)
            return ""
    except OSError as error:
        return f"this kernel has no netem: {error}"


class Switch:
    """Hosts on bridges; takes the place of the relay's `Network`."""

    one_way = False

    def __init__(self, hosts: Iterable[Node]) -> None:
        """Args: `hosts` are server ids and names of groups of clients; `MAIN` is the watcher."""
        self._prefix = f"paxon-{secrets.token_hex(3)}"
        self._hosts = [str(host) for host in hosts]
        self._isolated: set[str] = set()

    def namespace(self, host: Node) -> str:
        return f"{self._prefix}-{host}"

    @property
    def _switch(self) -> str:
        return self.namespace("switch")

    def address(self, host: Node, network: str = DATA_NET) -> str:
        return f"{network}.{1 + self._hosts.index(str(host))}"

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _make(self) -> None:
        ip("netns", "add", self._switch)
        bridges = [f"{DATA_BRIDGE}{number}" for number in range(PARTS)]
        for bridge in [*bridges, WATCH_BRIDGE]:
            ip("-n", self._switch, "link", "add", bridge, "type", "bridge")
            ip("-n", self._switch, "link", "set", bridge, "up")
        for host in self._hosts:
            namespace = self.namespace(host)
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            self._plug(host, "data", DATA_NET, f"{DATA_BRIDGE}0")
            self._plug(host, "watch", WATCH_NET, WATCH_BRIDGE)

    def _plug(self, host: str, device: str, network: str, bridge: str) -> None:
        namespace, port = self.namespace(host), f"{device}-{host}"
        ip(
            "-n", namespace, "link", "add", device, "type", "veth",
            "peer", "name", port, "netns", self._switch,
        )  # fmt: skip
        ip("-n", namespace, "address", "add", f"{self.address(host, network)}/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "up")
        ip("-n", self._switch, "link", "set", port, "master", bridge, "up")

    def close(self) -> None:
        """Remove all namespaces; their devices go with them."""
        for name in [*self._hosts, "switch"]:
            if Path(f"/run/netns/{self.namespace(name)}").exists():
                ip("netns", "delete", self.namespace(name))

    # --- faults, as of `Network` -----------------------------------------------------------------

    def partition(self, *parts: Iterable[Node], stall: bool = False) -> None:
        """Hosts reach those of their own part only. (Over TCP what is under way always stalls.)"""
        for number, part in enumerate(parts):
            for host in part:
                self._move(str(host), number)

    def cut(self, a: Node, b: Node, *, one_way: bool = False) -> None:
        """These two alone do not reach each other, while both reach all others."""
        if one_way:
            raise ValueError("a bridge cuts both ways")
        self._isolate({str(a), str(b)})

    def join(self) -> None:
        """End all partitions and cuts."""
        self._isolate(set())
        for host in self._hosts:
            self._move(host, 0)

    def weather(self, *, loss: float = 0.0, jitter: float = 0.0) -> None:
        """Every host loses this fraction of its packets, and delays them by up to `jitter` s."""
        half = f"{jitter * 500:g}ms"
        for host in self._hosts:
            words = ["tc", "-n", self.namespace(host), "qdisc", "replace", "dev", "data", "root"]
            if loss or jitter:
                _run(*words, "netem", "loss", f"{loss * 100:g}%", "delay", half, half)
            else:
                _run(*words, "pfifo")

    def heal(self) -> None:
        """End partitions and cuts. The weather is ended by whoever made it."""
        self.join()

    def lost(self) -> int:
        """Nobody counts what the kernel does not deliver."""
        return 0

    def _move(self, host: str, part: int) -> None:
        port = f"data-{host}"
        ip("-n", self._switch, "link", "set", port, "master", f"{DATA_BRIDGE}{part}")

    def _isolate(self, hosts: set[str]) -> None:
        for host in hosts ^ self._isolated:
            state = "on" if host in hosts else "off"
            _run(
                "bridge", "-n", self._switch, "link", "set", "dev", f"data-{host}",
                "isolated", state,
            )  # fmt: skip
        self._isolated = hosts


class NamespacedCluster(Commanded):
    """Three servers, run by `paxon server`, each in a namespace of its own.

    Use it in a thread that `inside(cluster.network.namespace(MAIN), …)` has made: that is where the
    watcher and the clients of `MAIN` are. Clients of other groups have to be made in threads of
    their own, which move into their group's namespace.
    """

    def __init__(self, network: Switch, directory: Path) -> None:
        self.network = network
        super().__init__(directory, network.namespace("cluster"))

    def entry(self, server: ServerId) -> str:
        host = self.network.address(server)
        return (
            f'peer = "tcp://{host}:{PEER_PORT}"\nclient = "tcp://{host}:{CLIENT_PORT}"\n'
            f'client_bind = "tcp://*:{CLIENT_PORT}"'
        )

    def run(self, server: ServerId, command: Sequence[str], output: IO[bytes]) -> Process:
        return inside(
            self.network.namespace(server), lambda: Commanded.run(self, server, command, output)
        )

    def watched(self, server: ServerId) -> str:
        return f"tcp://{self.network.address(server, WATCH_NET)}:{CLIENT_PORT}"

    def reached(self, server: ServerId) -> str:
        return f"tcp://{self.network.address(server)}:{CLIENT_PORT}"

    def client(self, group: str = MAIN, **options: Any) -> Client:
        """A client in its group's namespace, where this thread moves unless that is `MAIN`."""
        if group != MAIN:
            enter(self.network.namespace(group))
        return Commanded.client(self, **options)
