"""Making a cluster, and belonging to it, on real processes (docs/design/making-a-cluster.md)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paxon.actors.disk.sqlite_format import held_in
from paxon.kvstore import Client, ClusterError, LocalCluster, WrongCluster
from paxon.kvstore.client.addresses import free_ports, hold_ports
from paxon.kvstore.cluster.status import look_around
from paxon.kvstore.errors import RequestTimeout
from tests.cluster.helpers import captured_logs, wait_until
from tests.ports import own_base

pytestmark = pytest.mark.process

PATIENCE = 60.0


Ports = tuple[dict[int, int], dict[int, int]]
"""Of each server, for the others and for clients."""


class Servers:
    """`paxon server` processes of one machine, each with a cluster file of its own."""

    def __init__(self, directory: Path, most: int) -> None:
        self.directory = directory
        ports = free_ports(2 * most)
        self.peer = dict(zip(range(1, most + 1), ports[::2], strict=True))
        self.client = dict(zip(range(1, most + 1), ports[1::2], strict=True))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._held = hold_ports(ports)

    def end(self) -> None:
        """Stop all, and leave the ports to others."""
        self.stop(*list(self.processes))
        for held in self._held:
            held.close()

    def start(
        self, server: int, listed: tuple[int, ...], *flags: str, ports: Ports | None = None
    ) -> None:
        """Start a server with a file that lists these, at these `ports` as far as it knows."""
        peer, client = ports or (self.peer, self.client)
        text = '[cluster]\nid = "made"\n'
        for number in listed:
            text += (
                f"[[server]]\nid = {number}\npeer_port = {peer[number]}\n"
                f'client_port = {client[number]}\ndirectory = "server-{number}"\n'
            )
        file = self.directory / f"cluster-{server}.toml"
        file.write_text(text)
        command = [sys.executable, "-m", "paxon.kvstore.cli", "server", "-c", str(file)]
        with (self.directory / f"{server}.err").open("ab") as stderr:
            self.processes[server] = subprocess.Popen(
                [*command, "-i", str(server), *flags], stderr=stderr, stdout=stderr
            )

    def stop(self, *servers: int) -> None:
        for server in servers:
            process = self.processes.pop(server)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def said(self, server: int) -> str:
        log = self.directory / f"server-{server}" / "server.log"
        text = (self.directory / f"{server}.err").read_text()
        return text + (log.read_text() if log.exists() else "")

    def address(self, *servers: int) -> str:
        return ",".join(f"127.0.0.1:{self.client[server]}" for server in servers)

    def rows(self, *servers: int) -> dict[int, object]:
        addresses = {s: f"tcp://127.0.0.1:{self.client[s]}" for s in servers}
        return {row.server: row.reply for row in look_around(addresses, 2.0) if row.reply}

    def in_force(self, *servers: int) -> bool:
        rows = self.rows(*servers)
        return len(rows) == len(servers) and not any(r.waits_for for r in rows.values())  # type: ignore[attr-defined]

    def leaders(self, *servers: int) -> list[int]:
        return [s for s, reply in self.rows(*servers).items() if reply.role == "leader"]  # type: ignore[attr-defined]


@pytest.fixture
def servers(tmp_path: Path) -> object:
    made = Servers(tmp_path, 5)
    yield made
    made.end()


THREE = (1, 2, 3)
FIVE = (1, 2, 3, 4, 5)


def made_of_three(servers: Servers) -> None:
    for server in THREE:
        servers.start(server, THREE)
    wait_until(lambda: servers.in_force(*THREE))
    with Client(servers.address(*THREE), timeout=PATIENCE) as client:
        client.put("k", "acknowledged")


def test_two_of_three_make_nothing_and_say_for_whom_they_wait(servers: Servers) -> None:
    """Were they to make the cluster while 3 is off, 2 wiped and 3 could make a second one."""
    servers.start(1, THREE)
    servers.start(2, THREE)
    wait_until(lambda: len(servers.rows(1, 2)) == 2)
    wait_until(lambda: "waits for server 3 to make the cluster" in servers.said(1))
    with Client(servers.address(1, 2), timeout=0.5) as client:
        with pytest.raises(RequestTimeout) as caught:
            client.put("k", "v")
        assert not caught.value.unknown
        with pytest.raises(RequestTimeout):
            client.get("k")
    servers.stop(2)
    shutil.rmtree(servers.directory / "server-2")
    servers.start(2, THREE)
    servers.start(3, THREE)
    wait_until(lambda: servers.in_force(*THREE))


def test_a_file_that_grows_from_three_to_five_serves_no_stranger(servers: Servers) -> None:
    made_of_three(servers)
    servers.stop(*THREE)
    for server in (3, 4, 5):
        servers.start(server, FIVE)
    for server in (4, 5):
        assert servers.processes[server].wait(PATIENCE) != 0
        assert f"server {server} is not a member of cluster 'made'" in servers.said(server)
        assert "Traceback" not in servers.said(server)
    wait_until(lambda: len(servers.rows(3)) == 1)
    assert "the members of its cluster are servers 1, 2 and 3" in servers.said(3)
    with Client(servers.address(3, 4, 5), timeout=1.0) as client, pytest.raises(RequestTimeout):
        client.get("k")
    assert servers.leaders(3) == []
    servers.start(1, THREE)
    with Client(servers.address(*THREE), timeout=PATIENCE) as client:
        assert client.get("k") == b"acknowledged"


def test_a_file_that_lists_only_the_server_itself_makes_no_second_leader(servers: Servers) -> None:
    made_of_three(servers)
    servers.stop(1)
    servers.start(1, (1,))
    wait_until(lambda: 1 in servers.rows(1))
    wait_until(
        lambda: (
            "was told of server 1, but the members of its cluster are servers 1, 2 and 3"
            in servers.said(1)
        )
    )
    with Client(servers.address(2, 3), timeout=PATIENCE) as client:
        client.put("k", "later")
    wait_until(lambda: len(servers.leaders(*THREE)) == 1)
    # It remembers where the others are, so that it takes part as before.
    wait_until(lambda: getattr(servers.rows(1).get(1), "leader", 0) != 0)
    servers.stop(1)
    servers.start(1, THREE)
    with Client(servers.address(*THREE), timeout=PATIENCE) as client:
        assert client.get("k") == b"later"
        client.put("k", "last")

    def level() -> bool:
        rows = servers.rows(*THREE)
        return len({reply.executed for reply in rows.values()}) == 1 and len(rows) == 3  # type: ignore[attr-defined]

    wait_until(level)
    assert len({r.state_digest for r in servers.rows(*THREE).values()}) == 1  # type: ignore[attr-defined]


def test_a_wiped_directory_comes_back_by_rejoin_alone(servers: Servers) -> None:
    made_of_three(servers)
    servers.stop(2)
    shutil.rmtree(servers.directory / "server-2")
    servers.start(2, THREE)
    assert servers.processes[2].wait(PATIENCE) != 0
    assert "empty it and start once with --rejoin" in servers.said(2)
    shutil.rmtree(servers.directory / "server-2")
    servers.start(2, THREE, "--rejoin")
    wait_until(lambda: servers.in_force(*THREE))

    def votes() -> bool:
        rows = servers.rows(2)
        return bool(rows) and all(reply.part == "voter" for reply in rows.values())  # type: ignore[attr-defined]

    wait_until(votes)
    incarnations = {
        held.made.members
        for held in (held_in(servers.directory / f"server-{server}") for server in THREE)
        if held is not None
    }
    assert len(incarnations) == 1
    with Client(servers.address(*THREE), timeout=PATIENCE) as client:
        assert client.get("k") == b"acknowledged"


def test_all_killed_and_started_in_turns_lose_nothing(servers: Servers) -> None:
    made_of_three(servers)
    for late, early in ((2, (1, 3)), (1, (2, 3)), (3, (1, 2))):
        before = {s: reply.ballot for s, reply in servers.rows(*THREE).items()}  # type: ignore[attr-defined]
        servers.stop(*THREE)
        for server in early:
            servers.start(server, THREE)
        with Client(servers.address(*early), timeout=PATIENCE) as client:
            client.append("k", f" {late}")
        servers.start(late, THREE)
        after: dict[int, object] = {}
        while len(after) < 3:
            after = {s: reply.ballot for s, reply in servers.rows(*THREE).items()}  # type: ignore[attr-defined]
        assert all(after[server] >= ballot for server, ballot in before.items())
    with Client(servers.address(*THREE), timeout=PATIENCE) as client:
        assert client.get("k") == b"acknowledged 2 1 3"


# --- clients -------------------------------------------------------------------------------------


def test_a_client_that_outlives_its_cluster_is_told(tmp_path: Path) -> None:
    """The same ports, everything wiped: nothing of the old life is taken into the new one."""
    port = own_base()
    with LocalCluster(3, tmp_path / "one", port=port) as first:
        client = first.client(timeout=PATIENCE)
        client.put("k", "old")
    with LocalCluster(3, tmp_path / "two", port=port) as second, client:
        for attempt in (lambda: client.append("k", "!"), lambda: client.get("k")):
            with pytest.raises(WrongCluster, match="belong to another cluster, cluster 'local-"):
                attempt()
        with second.client(timeout=PATIENCE) as new:
            assert new.get("k") is None
            assert new.cas("k", expected=None, new="1")
            assert new.get("k") == b"1"


def test_a_client_given_servers_of_two_clusters_is_told(tmp_path: Path) -> None:
    with LocalCluster(1, tmp_path / "one") as one, LocalCluster(1, tmp_path / "two") as two:
        with Client([*one.addresses, *two.addresses], timeout=PATIENCE) as client:
            try:
                client.put("k", "1")
            except WrongCluster:
                return  # a busy machine: both had answered by then
            with one.client(timeout=PATIENCE) as of_one:
                mine, others = (one, two) if of_one.get("k") == b"1" else (two, one)
            mine.kill(1)
            with pytest.raises(WrongCluster, match=r"belongs to cluster [0-9a-f]{16}"):
                client.put("k", "2")
        with others.client(timeout=PATIENCE) as other:
            assert other.get("k") is None


# --- LocalCluster --------------------------------------------------------------------------------


def test_a_local_cluster_with_a_lost_directory_goes_on_and_says_so(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path) as cluster, cluster.client(timeout=PATIENCE) as client:
        client.put("k", "v")
    shutil.rmtree(tmp_path / "server-2")
    with captured_logs() as lines, LocalCluster(3, tmp_path) as cluster:
        assert any("server 2 does not take part" in line and "--rejoin" in line for line in lines)
        with cluster.client(timeout=PATIENCE) as client:
            assert client.get("k") == b"v"
        shutil.rmtree(tmp_path / "server-2")
        cluster.restart(2, rejoin=True)
        wait_until(lambda: all(row.reply and row.reply.part == "voter" for row in cluster.status()))
    for server in (1, 2):
        shutil.rmtree(tmp_path / f"server-{server}")
    with pytest.raises(ClusterError, match=r"server 1: .* empty it and start once with --rejoin"):
        LocalCluster(3, tmp_path).start()
