"""Clients that knock where nobody can serve them are told so at once, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paxon.actors.messages import PROTOCOL_VERSION
from paxon.kvstore import (
    Client,
    ClusterUnavailable,
    InvalidRequest,
    OperationFailed,
    OutcomeUnknown,
)
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import one_sentence, paxon, wait_until
from tests.cluster.machines import Fragile

pytestmark = pytest.mark.process


def test_a_client_at_the_ports_for_servers_or_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(3, tmp_path) as cluster:
        cluster.leader()
        ports = cluster.peer_addresses
        with Client(ports, timeout=300) as kv:
            calls: list[Callable[[], object]] = [lambda: kv.put("k", "v"), lambda: kv.get("k")]
            for call in calls:
                with pytest.raises(InvalidRequest, match="listens for other servers; clients") as e:
                    call()
                assert cluster.addresses[0] in str(e.value)
        done = paxon("status", "-c", ports[1], "--timeout", "20", timeout=120)
        assert done.returncode == 0, done.stderr
        assert all(address in done.stdout.decode() for address in cluster.addresses)
        done = paxon("put", "k", "v", "-c", ",".join(ports), "--timeout", "300", timeout=120)
        assert done.returncode == 2
        assert "no address is one for clients" in one_sentence(done)
        with Client([ports[0], *cluster.addresses], timeout=60) as kv:  # one wrong one is no matter
            kv.put("k", "v")
            assert kv.get("k") == b"v"
        theirs, ours = PROTOCOL_VERSION, PROTOCOL_VERSION + 1
        monkeypatch.setattr("paxon.actors.codecs.PROTOCOL_VERSION", ours)
        said = f"server 1 speaks protocol version {theirs}, this is version {ours}: run"
        with Client(cluster.addresses[0], timeout=2) as kv:

            def is_told() -> bool:  # (once the server was heard within that time)
                with pytest.raises(ClusterUnavailable) as error:
                    kv.get("k")
                return said in str(error.value)

            wait_until(is_told)


def test_a_store_client_at_another_machine_changes_nothing(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path, machine=Fragile) as cluster:
        with cluster.client(timeout=60) as kv:
            for _ in range(2):
                with pytest.raises(
                    OperationFailed, match=r"not the key-value store.*a CommandClient"
                ):
                    kv.put("k", "v")
        with cluster.command_client(timeout=60) as client:
            assert client.execute(b"ok") == b"1", "nothing was executed before"


def test_methods_that_only_ask_stop_no_server(tmp_path: Path) -> None:
    with LocalCluster(3, tmp_path, machine=Fragile) as cluster:
        with cluster.command_client(timeout=60) as client:
            for command in (b"check: memory", b"check: exit", b"cost: none", b"cost: raises"):
                with pytest.raises((InvalidRequest, OperationFailed)):
                    client.execute(command)
            assert client.execute(b"ok") == b"1"
            with pytest.raises(OperationFailed, match="40000000 bytes"):
                client.query(b"large")  # no frame holds it: there was no answer at all
            with pytest.raises(OutcomeUnknown, match="the reply has 40000000 bytes"):
                client.execute(b"large")
            assert client.execute(b"ok") == b"3"
        rows = cluster.status(10.0)
        assert [row.state for row in rows] == ["running"] * 3
        assert [row.reply.state_digest for row in rows if row.reply is not None] == [""] * 3
