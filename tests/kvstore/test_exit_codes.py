"""Each end of a command has a number of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from paxon.kvstore import Client, OutcomeUnknown, RequestTimeout
from paxon.kvstore.cli import backup, exit_codes
from paxon.kvstore.cluster.logs import named
from paxon.kvstore.errors import InvalidRequest, OperationFailed
from tests.cluster.helpers import paxon_here
from tests.kvstore.client.fake_cluster import SocketCluster


def test_they_are_distinct_and_told() -> None:
    names = [name for name in exit_codes.__all__ if name.isupper() and name != "TABLE"]
    codes = [getattr(exit_codes, name) for name in names]
    assert sorted(codes) == list(range(len(codes)))
    shown = " ".join(paxon_here("--help").stdout.decode().split())
    for code in codes:
        assert f"{code} " in exit_codes.TABLE.replace("\n", " ")
    assert "6 outcome unknown" in shown


def test_of_errors() -> None:
    assert exit_codes.code_of(InvalidRequest("")) == exit_codes.USAGE
    assert exit_codes.code_of(OperationFailed("")) == exit_codes.FAILED
    assert exit_codes.code_of(OutcomeUnknown("")) == exit_codes.OUTCOME_UNKNOWN


def test_a_server_that_names_itself_is_not_named_twice() -> None:
    """As `paxon server` tells why it stops."""
    for own in ("server 4 was taken out", "server 4's data directory is an old copy"):
        assert named(4, own) == own
    for other in ("server 40 made another cluster", "the port is in use"):
        assert named(4, other) == f"server 4: {other}"


def test_a_write_whose_outcome_is_unknown_and_a_read_without_one(servers: SocketCluster) -> None:
    at = ("--cluster", servers.addresses[0], "--timeout", "0.5")
    servers.lose_replies = set(servers.addresses)
    with Client(servers.addresses[0], timeout=20) as client:
        with pytest.raises(RequestTimeout) as read:
            client.get("key", timeout=0.3)
        assert not read.value.unknown
        servers.lose_replies = set()
        client.put("key", "value")
        servers.lose_replies = set(servers.addresses)
        with pytest.raises(RequestTimeout) as write:
            client.put("key", "value", timeout=0.3)
        assert write.value.unknown
    assert paxon_here("get", "key", *at).returncode == exit_codes.UNAVAILABLE
    # The session was never opened, for all that this client knows: so nothing was sent.
    assert paxon_here("put", "key", "value", *at).returncode == exit_codes.UNAVAILABLE


def test_a_backup_does_not_wait_long_where_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backup, "_ANYBODY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
    done = paxon_here("backup", "save", str(tmp_path / "b"), "--cluster", address)
    assert done.returncode == exit_codes.UNAVAILABLE and b"within 0.2 s" in done.stderr


def test_stdin_is_one_value_of_a_transaction() -> None:
    """The second would be empty. (A key may be called so as often as one likes.)"""
    done = paxon_here("txn", "--then", "put a -", "--then", "put b -")
    assert done.returncode == exit_codes.USAGE and b"only one of the values" in done.stderr
    at = ("--cluster", "127.0.0.1:1", "--timeout", "0.1")
    done = paxon_here("txn", "--then", "get -", "--else", "get -", *at)
    assert done.returncode == exit_codes.UNAVAILABLE
