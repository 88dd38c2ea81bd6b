"""What broke in others when members changed, on real processes (docs/checks/faults.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paxon.kvstore import Client
from paxon.kvstore.client.addresses import free_ports, hold_ports
from tests.cluster.belonging.test_making import PATIENCE, THREE, Servers, made_of_three
from tests.cluster.helpers import paxon_here
from tests.ports import own_ports
from tests.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path, 4)
    yield made
    made.end()


def member(servers: Servers, at: int, *arguments: str) -> dict[str, Any]:
    """Ask until it is done: what the members are then."""
    found: list[bytes] = []

    def done() -> bool:
        asked = paxon_here("member", *arguments, "-c", servers.address(at), "--json")
        found.append(asked.stdout)
        return asked.returncode == 0

    wait_until(done, f"paxon member {' '.join(arguments)}")
    answer: dict[str, Any] = json.loads(found[-1])
    return answer


def test_an_unreachable_member_gets_no_vote_and_can_be_removed(servers: Servers) -> None:
    """The second one, and the fourth (etcd #3505, #10499): what is written goes on meanwhile."""
    ports = free_ports(2)
    held = hold_ports(ports)
    nowhere = [f"tcp://127.0.0.1:{port}" for port in ports]
    try:
        for members, ghost in (((1,), 2), (THREE, 4)):
            for server in members:
                if server not in servers.processes:
                    joins = () if server == 1 else ("--join", servers.address(1))
                    servers.start(server, (1,) if server == 1 else THREE, *joins)
                    if server > 1:
                        member(servers, 1, "add", str(server))
            wait_until(lambda members=members: servers.in_force(*members))  # type: ignore[misc]
            with Client(servers.address(*members), timeout=PATIENCE) as client:
                client.put("k", f"before {ghost}")
                where = ["--peer", nowhere[0], "--client", nowhere[1], "--incarnation", "77"]
                add = ["member", "add", str(ghost), *where, "-c", servers.address(1)]
                refused = paxon_here(*add, "--timeout", "3")
                assert refused.returncode != 0
                *said, last = refused.stderr.decode().splitlines()
                assert str(ghost) in last
                assert all(line.startswith("paxon: waiting: ") for line in said)
                client.put("k", f"with {ghost}")
                listed = member(servers, 1, "list")["members"]
                assert [each["id"] for each in listed if each["voter"]] == list(members)
                if any(each["id"] == ghost for each in listed):
                    member(servers, 1, "remove", str(ghost))
                assert [e["id"] for e in member(servers, 1, "list")["members"]] == list(members)
                client.put("k", f"without {ghost}")
    finally:
        for each in held:
            each.close()


def test_the_same_address_and_the_same_lists_again(servers: Servers) -> None:
    """A removed server on its old data; wiped, and added again; wiped and not removed (etcd #1488,
    #3504, #20269; rqlite PR 2778). A learner that moves stays one (etcd #21694); whoever is killed
    and started again has the same list as all (PySyncObj #133)."""
    made_of_three(servers)
    member(servers, 1, "remove", "3")
    assert servers.processes.pop(3).wait(PATIENCE) == 0  # it has heard, and retires
    servers.start(3, THREE)
    assert servers.processes.pop(3).wait(PATIENCE) != 0
    assert "never comes back" in servers.said(3)
    shutil.rmtree(servers.directory / "server-3")
    servers.start(3, THREE, "--join", servers.address(1))
    listed = member(servers, 1, "add", "3")
    servers.stop(3)
    shutil.rmtree(servers.directory / "server-3")
    servers.start(3, THREE)  # wiped, and nobody told the others
    assert servers.processes.pop(3).wait(PATIENCE) != 0
    assert [e["incarnation"] for e in member(servers, 1, "list")["members"]] == [
        each["incarnation"] for each in listed["members"]
    ]
    shutil.rmtree(servers.directory / "server-3")
    servers.start(3, THREE, "--join", servers.address(1))
    listed = member(servers, 1, "replace", "3")
    assert len({each["peer"] for each in listed["members"]}) == 3

    four = (*THREE, 4)
    servers.start(4, four, "--join", servers.address(1))
    member(servers, 1, "add", "4", "--learner")
    servers.stop(4)
    servers.peer[4], servers.client[4] = own_ports(2)  # (nobody else is given them)
    servers.start(4, four)
    for server in four:
        servers.stop(server)
        servers.start(server, four)
        wait_until(lambda: _alike(servers, four), f"all say the same after {server}'s restart")
    with Client(servers.address(4), timeout=PATIENCE) as client:
        assert client.get("k") == b"acknowledged"


def _alike(servers: Servers, members: tuple[int, ...]) -> bool:
    """All say the same of who there is, and the fourth that it learns."""
    rows: dict[int, Any] = servers.rows(*members)
    parts = {server: reply.part for server, reply in rows.items()}
    return (
        parts == {**dict.fromkeys(THREE, "voter"), 4: "learner"}
        and len({(reply.epoch, reply.members) for reply in rows.values()}) == 1
        and not any(reply.waits_for for reply in rows.values())
    )
