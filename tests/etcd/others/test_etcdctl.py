"""etcdctl, as Debian has it, in front of Paxon."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paxon import LocalCluster
from paxon.kvstore.cluster.backup import BackupError, verify
from tests.etcd.tools import Gateway, Grpc, binary
from tests.soak import SOAK
from tests.waiting import wait_until


class Etcdctl:
    def __init__(self, address: str, *flags: str) -> None:
        self._command = [binary("etcdctl"), f"--endpoints={address}", *flags]
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        self._environment["ETCDCTL_API"] = "3"

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0, seconds: float = 60) -> str:
        """What it prints, on stderr where it fails."""
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True,
            env=self._environment, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """One that runs until the block ends."""
        process = subprocess.Popen(
            [*self._command, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
            env=self._environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def ctl(gateway: Gateway) -> Etcdctl:
    return Etcdctl(gateway.address)


def test_the_store(ctl: Etcdctl) -> None:
    assert ctl("put", "foo", "bar") == "OK\n"
    assert ctl("put", "foo2", "bar2", "--prev-kv") == "OK\n"
    assert ctl("get", "foo") == "foo\nbar\n"
    assert ctl("get", "foo", "--prefix", "--keys-only").split() == ["foo", "foo2"]
    assert ctl("get", "", "--from-key", "--limit=1") == "foo\nbar\n"
    assert json.loads(ctl("get", "foo", "-w", "json"))["count"] == 1
    assert ctl("del", "foo", "--prev-kv") == "1\nfoo\nbar\n"
    done = ctl("txn", stdin='mod("foo2") > "0"\n\nput a 1\n\nput b 1\n\n')
    assert done == "SUCCESS\n\nOK\n"
    assert "required revision is a future revision" in ctl("get", "a", "--rev=99", code=1)
    revision = json.loads(ctl("get", "a", "-w", "json"))["header"]["revision"]
    assert ctl("compaction", str(revision)) == f"compacted revision {revision}\n"
    assert "has been compacted" in ctl("compaction", str(revision), code=1)


def test_leases(ctl: Etcdctl) -> None:
    number = ctl("lease", "grant", "100").split()[1]
    assert ctl("put", "leased", "1", f"--lease={number}") == "OK\n"
    assert "attached keys([leased])" in ctl("lease", "timetolive", number, "--keys")
    assert f"lease {number} keepalived with TTL(100)" in ctl(
        "lease", "keep-alive", number, "--once"
    )
    assert number in ctl("lease", "list")
    assert ctl("lease", "revoke", number) == f"lease {number} revoked\n"
    assert ctl("get", "leased") == ""
    assert "requested lease not found" in ctl("lease", "revoke", number, code=1)


def test_a_watch(ctl: Etcdctl, client: Grpc) -> None:
    at = client.kv("Range", key=b"x").header.revision
    with ctl.running("watch", "seen", f"--rev={at + 1}", "--prefix") as watch:
        ctl("put", "seen/1", "one")
        ctl("del", "seen/1")
        assert watch.stdout is not None
        said = [watch.stdout.readline().strip() for _ in range(5)]
    assert said == ["PUT", "seen/1", "one", "DELETE", "seen/1"]


def test_a_lock_and_an_election(ctl: Etcdctl) -> None:
    with ctl.running("lock", "name") as first:
        assert first.stdout is not None
        holder = first.stdout.readline().strip()
        assert holder.startswith("name/")
        with ctl.running("lock", "name") as second:
            wait_until(lambda: len(ctl("get", "name/", "--prefix", "--keys-only").split()) == 2)
            first.terminate()
            assert second.stdout is not None
            assert second.stdout.readline().strip() not in ("", holder)
    with ctl.running("elect", "cron", "worker 7") as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline().startswith("cron/")
        assert leader.stdout.readline() == "worker 7\n"


def test_the_cluster(ctl: Etcdctl, gateway: Gateway) -> None:
    ctl("endpoint", "health")
    (status,) = json.loads(ctl("endpoint", "status", "-w", "json"))
    assert status["Status"]["leader"] == status["Status"]["header"]["member_id"]
    assert status["Status"]["version"]
    (member,) = json.loads(ctl("member", "list", "-w", "json"))["members"]
    assert member["clientURLs"] == [f"http://{gateway.address}"]
    assert member["peerURLs"] == member["clientURLs"], "Paxon's own ports are not told"
    assert ctl("endpoint", "status", "--cluster").startswith(f"http://{gateway.address}, ")
    assert ctl("alarm", "list") == ""
    assert "Finished defragmenting" in ctl("defrag")
    assert "authentication is not enabled" in ctl("user", "list", code=1)
    assert "not by this API" in ctl("member", "add", "x", "--peer-urls=http://127.0.0.1:1", code=1)
    assert ctl("endpoint", "hashkv").startswith(gateway.address)


def test_a_snapshot_is_a_backup_of_paxons_own_kind(ctl: Etcdctl, tmp_path: Path) -> None:
    ctl("put", "kept", stdin="x" * 200_000)  # so that it comes in parts
    path = tmp_path / "backup"
    assert f"Snapshot saved at {path}" in ctl("snapshot", "save", str(path))
    found = verify(path)
    assert found.keys > 0 and found.cluster == "memory"
    for more in (b"x", bytes(512), bytes(100_000)):
        path.write_bytes(path.read_bytes() + more)
        with pytest.raises(BackupError, match="after its end"):
            verify(path)


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.skipif(not SOAK, reason="only in make soak: it takes two minutes, whatever is tested")
def test_check_perf() -> None:
    """Its own verdict on a small load. A medium one ends with what etcd alone would do.

    It deletes its 60,000 keys by one request: 77 MB in one revision, of which Paxon's have bounds.
    """
    with LocalCluster(3, etcd=True) as cluster:
        ctl = Etcdctl(cluster.etcd_address)
        said = ctl("check", "perf", "--load=s", seconds=300)
        print(said)
        assert said.rstrip().endswith("PASS") and "FAIL" not in said
        assert "PASS" in ctl("check", "datascale", "--load=s", seconds=100)
        said = ctl("check", "perf", "--load=m", seconds=300, code=1)
        print(said)
        assert "etcdserver: request is too large" in said
