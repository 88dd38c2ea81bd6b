"""From one version of the protocol to the next and back, server by server (docs/operating.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from paxon import Client, KVStore, RequestTimeout, ServerRef, Settings, start_server
from paxon.actors.messages import PROTOCOL_VERSION
from paxon.actors.server import PaxosServer
from paxon.kvstore.client.addresses import free_ports, hold_ports
from paxon.kvstore.cluster.status import look_around
from tests.cluster.helpers import captured_logs, wait_until

pytestmark = pytest.mark.process

THREE = (1, 2, 3)
OLD, NEW = PROTOCOL_VERSION, PROTOCOL_VERSION + 1
HINT = "run the same release on both sides"


class Releases:
    """Servers of this process, each of the release that it was started with."""

    def __init__(self, home: Path) -> None:
        ports = free_ports(6)
        self._held = hold_ports(ports)
        self._home = home
        self._peers = {s: f"tcp://127.0.0.1:{ports[s - 1]}" for s in THREE}
        self.clients = {s: f"tcp://127.0.0.1:{ports[s + 2]}" for s in THREE}
        self._running: dict[int, ServerRef[PaxosServer]] = {}

    def start(self, server: int, version: int) -> None:
        """Stop it, if it runs, and start it with this version."""
        self.stop(server)
        settings = Settings(
            cluster="releases", server=server, servers=THREE, client_addresses=self.clients
        )
        with speaking(version):
            self._running[server] = start_server(
                settings, KVStore(), peers=self._peers, client_bind=self.clients[server],
                directory=self._home / str(server),
            )  # fmt: skip

    def stop(self, server: int) -> None:
        if server in self._running:
            self._running.pop(server).stop()

    def end(self) -> None:
        for server in THREE:
            self.stop(server)
        for held in self._held:
            held.close()

    def put(self, version: int, key: str) -> list[str]:
        """Write a key, as a client of this version; all keys."""
        with speaking(version), Client(list(self.clients.values()), timeout=60) as kv:
            kv.put(key, "v")
            return [entry.key for entry in kv.range(prefix="")]

    def refusal(self, version: int) -> str:
        """What a client is told of whose version only a minority of the servers is."""
        with (
            speaking(version),
            Client(list(self.clients.values()), timeout=2) as kv,
            pytest.raises(RequestTimeout) as caught,
        ):
            kv.get("a")
        return str(caught.value)

    def troubles(self, version: int) -> list[str]:
        """Why each cannot be talked to, as `paxon status` of this version says."""
        with speaking(version):
            return [row.trouble for row in look_around(self.clients, 1.0)]


@contextmanager
def speaking(version: int) -> Iterator[None]:
    """What is started meanwhile is of a release with this version of the protocol."""
    with mock.patch("paxon.actors.codecs.PROTOCOL_VERSION", version):
        yield


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Releases]:
    made = Releases(tmp_path)
    yield made
    made.end()


def told(server: int, theirs: int, ours: int) -> str:
    return f"server {server} speaks protocol version {theirs}, this is version {ours}: {HINT}"


def test_a_majority_of_one_version_serves_and_nothing_is_lost(servers: Releases) -> None:
    for server in THREE:
        servers.start(server, OLD)
    assert servers.put(OLD, "a") == ["a"]
    with captured_logs() as lines:
        servers.start(3, NEW)
        assert servers.put(OLD, "b") == ["a", "b"]
        # Each side names the other's; one line of all that is refused tells of any server.
        wait_until(lambda: any(told(3, NEW, OLD) in line for line in lines))
        heard = [told(server, OLD, NEW) for server in (1, 2)]
        wait_until(lambda: any(text in line for text in heard for line in lines))
    wait_until(lambda: told(1, OLD, NEW) in servers.refusal(NEW))
    wait_until(lambda: servers.troubles(NEW)[:2] == heard)
    servers.start(2, NEW)
    assert servers.put(NEW, "c") == ["a", "b", "c"]
    wait_until(lambda: told(2, NEW, OLD) in servers.refusal(OLD))
    servers.start(1, NEW)
    assert servers.put(NEW, "d") == ["a", "b", "c", "d"]
    for server in THREE:  # and back
        servers.start(server, OLD)
    assert servers.put(OLD, "e") == ["a", "b", "c", "d", "e"]
