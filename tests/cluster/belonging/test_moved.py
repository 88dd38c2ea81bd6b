"""Servers that move: addresses are hints, and what was told of them is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon.kvstore import Client
from paxon.kvstore.cluster.status import look_around
from tests.cluster.belonging.test_making import PATIENCE, THREE, Ports, Servers, made_of_three
from tests.ports import own_ports
from tests.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path, 3)
    yield made
    made.end()


def elsewhere(ports: Ports, server: int) -> Ports:
    """These ports, with others for one server."""
    peer, client = own_ports(2)
    return ports[0] | {server: peer}, ports[1] | {server: client}


def move(servers: Servers, server: int, *tell: int) -> Ports:
    """Start a server at other ports; only its own file knows, and these have heard of it."""
    first = servers.peer, servers.client
    moved = elsewhere(first, server)
    servers.stop(server)
    servers.start(server, THREE, ports=moved)
    address = f"tcp://127.0.0.1:{moved[1][server]}"

    def told() -> bool:
        rows: dict[int, Any] = servers.rows(*tell)
        return all(s in rows and rows[s].addresses.get(server) == address for s in tell)

    wait_until(told)
    return moved


def test_the_others_find_a_server_that_moved(servers: Servers) -> None:
    made_of_three(servers)
    at = move(servers, 3, 1)
    address = f"127.0.0.1:{at[1][3]}"
    with Client(servers.address(1, 2), timeout=PATIENCE) as client:
        client.put("k", "moved")
    servers.stop(1)  # 2 has the old address in its file, and needs 3 from here on
    with Client(servers.address(2), timeout=PATIENCE) as client:
        client.put("k", "with server 3")
        (said,) = client.status(servers.address(2), timeout=PATIENCE).values()
        assert said.addresses[3] == f"tcp://{address}"
    servers.stop(2)
    servers.start(2, THREE)  # and so when it has forgotten all that is not on its disk
    with Client(address, timeout=PATIENCE) as client:
        assert client.get("k") == b"with server 3"


def test_two_that_moved_find_each_other_by_what_they_remember(servers: Servers) -> None:
    """Each one's file has the other where it was first, and the third, which would know, is down.

    With only what the files say each of the two would dial a port that nobody listens at.
    """
    made_of_three(servers)
    one = move(servers, 1, 2, 3)
    two = move(servers, 2)
    servers.stop(3)
    with Client(f"127.0.0.1:{two[1][2]}", timeout=PATIENCE) as client:
        client.put("k", "both have moved")
    servers.stop(1, 2)
    servers.start(1, THREE, ports=one)
    servers.start(2, THREE, ports=two)
    with Client(f"127.0.0.1:{one[1][1]}", timeout=PATIENCE) as client:
        assert client.get("k") == b"both have moved"
        client.put("k", "and found each other")


def test_a_server_is_found_although_another_listens_where_the_file_has_it(
    servers: Servers,
) -> None:
    """One file has 2 and 3 the wrong way round: a connection comes about, but to another."""
    made_of_three(servers)
    servers.stop(1)
    wrong = servers.peer | {2: servers.peer[3], 3: servers.peer[2]}
    servers.start(1, THREE, ports=(wrong, servers.client))
    servers.stop(3)  # from here on 1 and 2 need each other
    with Client(servers.address(1, 2), timeout=PATIENCE) as client:
        client.put("k", "found")
        assert client.get("k") == b"found"


def test_a_lost_disk_comes_back_on_another_host(servers: Servers) -> None:
    made_of_three(servers)
    servers.stop(3)
    moved = elsewhere((servers.peer, servers.client), 3)
    (servers.directory / "server-3").rename(servers.directory / "lost")
    servers.start(3, THREE, "--rejoin", ports=moved)

    def votes() -> bool:
        servers.client[3] = moved[1][3]
        reply = servers.rows(3).get(3)
        return reply is not None and reply.part == "voter" and not reply.waits_for  # type: ignore[attr-defined]

    wait_until(votes)
    servers.stop(1)
    with Client(servers.address(2), timeout=PATIENCE) as client:
        client.put("k", "with the new disk")


def test_a_client_outlives_the_replacement_of_every_address_it_was_started_with(
    servers: Servers,
) -> None:
    """All three move, one after another, while it writes; it is told where they are.

    So is whoever asks for the status by an old file, as long as one is left where that has it.
    """
    made_of_three(servers)
    file = {server: f"tcp://127.0.0.1:{servers.client[server]}" for server in THREE}

    def all_found() -> bool:
        return all(row.reply is not None for row in look_around(file, 5.0))

    with Client(servers.address(1, 2, 3), timeout=PATIENCE) as client:
        client.put("k", "0")
        for server in (1, 2, 3):
            at = move(servers, server, *(s for s in (1, 2, 3) if s != server))
            servers.peer, servers.client = at
            client.put("k", f"{server}")
            assert client.get("k") == f"{server}".encode()
            if server == 2:
                wait_until(all_found, "server 3 tells where the others are")
