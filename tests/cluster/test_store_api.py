"""The store's API on real servers: FAULTS, "The API", and what only processes can show."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from paxon import Client, Delete, Get, LocalCluster, PaxonError, Put, RequestTimeout, TooLarge
from tests.cluster.helpers import (
    PAXON,
    are_level,
    environment,
    one_sentence,
    paxon_here,
    wait_until,
)
from tests.kvstore.test_surface import KEYS
from tests.soak import sized

pytestmark = pytest.mark.process

PAUSES = sized(20, 200)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3) as running:
        running.leader()
        yield running


@pytest.fixture
def at(cluster: LocalCluster) -> tuple[str, str]:
    return ("--cluster", ",".join(cluster.addresses))


def test_a_retry_after_a_timeout_takes_effect_once(cluster: LocalCluster) -> None:
    """The write reaches a leader without a majority; asked for again, it is the same one."""
    with cluster.client(timeout=60) as kv:
        revision = kv.put("retried", "0")
        leader = cluster.leader()
        others = [server for server in cluster.servers if server != leader]
        for server in others:
            cluster.pause(server)
        with pytest.raises(RequestTimeout, match="its outcome is unknown") as failed:
            kv.txn(if_=[kv.modified("retried") == revision], then=[Put("retried", "1")], timeout=1)
        for server in others:
            cluster.resume(server)
        done = failed.value.retry()
        assert done.succeeded and done.revision == revision + 1
        assert failed.value.retry() == done, "known by now"
        entry = kv.entry("retried")
        assert entry is not None and (entry.value, entry.version) == (b"1", 2)


def test_a_read_right_after_a_pause_is_the_newest_or_an_error(cluster: LocalCluster) -> None:
    """etcd #20418, #741: a server that was stopped must not answer from what it was."""
    addresses = dict(zip(cluster.servers, cluster.addresses, strict=True))
    told = 0
    with cluster.client(timeout=60) as kv:
        for number in range(PAUSES):
            leader = cluster.leader(timeout=60)
            paused = leader if number % 2 else 1 + leader % 3
            value = str(number).encode()
            with Client(addresses[paused], redirect=False, timeout=5) as old:
                old.get("paused", mode="stale")  # connected
                cluster.pause(paused)
                kv.put("paused", value)
                cluster.resume(paused)
                try:
                    assert old.get("paused") == value
                    told += 1
                except PaxonError:
                    pass
            assert kv.get("paused") == value
    print(f"{told} of {PAUSES} reads were answered, {PAUSES - told} refused")


def test_limits_survive_a_restart(cluster: LocalCluster) -> None:
    """etcd #14025, #14997: what is taken at a limit's edge is there after kill -9 of all."""
    value = bytes(8 << 20)
    with cluster.client(timeout=60) as kv:
        kv.put("k" * 4096, value)
        kv.put_many({f"many/{number}": "x" for number in range(10_000)})
        with pytest.raises(TooLarge):
            kv.txn(then=[Put("big/1", bytes(8 << 20)), Put("big/2", bytes(8 << 20))])
        kv.put_many(dict.fromkeys(KEYS, "awkward"))
        before = kv.range(prefix="", count_only=True)
    for server in cluster.servers:
        cluster.kill(server)
    for server in cluster.servers:
        cluster.restart(server)
    with cluster.client(timeout=60) as kv:
        after = kv.range(prefix="", count_only=True)
        assert (after.count, after.revision) == (before.count, before.revision)
        assert kv.get("k" * 4096) == value
        assert kv.get("big/1") is None
        assert kv.get("many/0", revision=before.revision - 1) == b"x", "history is there, too"
        assert kv.delete_prefix(b"a\xff") == 3 and kv.delete_prefix(b"\xff") == 2
        assert kv.delete_prefix("many/") == 10_000
        assert kv.txn(if_=[kv.version("none") == 0, kv.modified("none") == 0]).succeeded
        assert not kv.txn(if_=[kv.value("none") != "x"], then=[Delete(prefix="")]).succeeded

        def alike() -> bool:
            replies = [row.reply for row in cluster.status()]
            return len({reply.state_digest for reply in replies if reply is not None}) == 1

        wait_until(alike, "all servers are in the same state")


def test_the_store_from_a_shell(at: tuple[str, str]) -> None:
    revision = json.loads(paxon_here("put", "motto", "a", "--json", *at).stdout)["revision"]
    paxon_here("put", "motto", "b", *at)
    assert paxon_here("get", "motto", "--revision", str(revision), *at).stdout == b"a"
    detail = json.loads(paxon_here("get", "motto", "--detail", *at).stdout)
    assert (detail["value"], detail["created"], detail["version"]) == ("b", revision, 2)
    found = json.loads(paxon_here("get", "mot", "--prefix", "--json", *at).stdout)
    assert found == [detail]
    done = paxon_here(
        "txn", "--if", f"modified motto = {revision + 1}", "--if", "version nobody = 0",
        "--then", "put motto 'c d'", "--then", "range prefix mot", "--else", "get motto",
        "--json", *at,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["succeeded"] and told["results"][1]["entries"][0]["value"] == "c d"
    done = paxon_here("txn", "--if", "value motto = c", "--else", "get motto", *at)
    assert (done.returncode, done.stdout) == (4, b"c d\n")
    assert one_sentence(done) == "paxon: the conditions did not hold"
    for wrong, text in (
        (("txn",), "at least one --if"),
        (("txn", "--if", "motto = 7"), "no condition"),
        (("txn", "--if", "version motto = x"), "no number"),
        (("txn", "--then", "steal motto"), "no operation"),
        (("txn", "--then", "put a 1", "--then", "put a 2"), "twice"),
        (("get", "motto", "--revision", "99999999"), "in the future"),
    ):
        done = paxon_here(*wrong, *at)
        assert done.returncode == 2 and text in done.stderr.decode()
    assert json.loads(paxon_here("compact", str(revision + 1), "--json", *at).stdout)
    done = paxon_here("get", "motto", "--revision", str(revision), *at)
    assert done.returncode == 1 and "has been compacted" in one_sentence(done)
    assert paxon_here("delete", "mot", "--prefix", "--json", *at).stdout == b'{"deleted": 1}\n'


def test_watches_from_a_shell(cluster: LocalCluster, at: tuple[str, str]) -> None:
    with cluster.client() as kv:
        first = kv.put("seen/a", "old")
        kv.put("seen/a", "new")
        kv.put("seen/b", "x\ty")
        kv.delete("seen/a")
    after = ("--after", str(first), "--count", "2")
    done = paxon_here("watch", "seen/", "--prefix", *after, *at)
    told = [f"{first + 1}\tput\tseen/a\tnew", f"{first + 2}\tput\tseen/b\tx\\ty"]
    assert done.stdout.decode().splitlines() == told
    done = paxon_here(
        "watch", "seen/a", "--previous", "--no-puts", "--json", *after[:2], "-n1", *at
    )
    event = json.loads(done.stdout)
    assert (event["event"], event["key"], event["value"]) == ("delete", "seen/a", None)
    assert (event["revision"], event["previous"]) == (first + 3, "new")
    paxon_here("compact", str(first + 3), *at)
    wait_until(lambda: are_level(cluster), "all servers have executed it")
    done = paxon_here("watch", "seen/a", *after, *at)
    assert done.returncode == 1 and "has been compacted" in one_sentence(done)
    assert paxon_here("watch", "seen/a", "--no-puts", "--no-deletes", *at).returncode == 2
    run = [*PAXON, "watch", "seen/a", *at]  # Ctrl-C ends it
    with subprocess.Popen(run, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with cluster.client() as kv:
            wait_until(lambda: kv.put("seen/a", "live") > 0 and watches(cluster) > 0, "it watches")
            kv.put("seen/a", "live")
        assert b"seen/a\tlive" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def watches(cluster: LocalCluster) -> int:
    """How many the servers hold."""
    replies = [row.reply for row in cluster.status()]
    return sum(reply.counters["watches"] for reply in replies if reply is not None)


def test_leases_from_a_shell(at: tuple[str, str]) -> None:
    lease = paxon_here("lease", "grant", "60", *at).stdout.decode().strip()
    assert paxon_here("put", "leased", "v", "--lease", lease, *at).returncode == 0
    other = json.loads(paxon_here("lease", "grant", "60", "--json", *at).stdout)
    assert other["ttl"] == 60
    assert {lease, other["id"]} <= set(
        json.loads(paxon_here("lease", "list", "--json", *at).stdout)
    )
    assert lease in paxon_here("lease", "list", *at).stdout.decode().splitlines()
    assert paxon_here("lease", "revoke", other["id"], *at).stdout == b""
    told = json.loads(paxon_here("lease", "ttl", lease, "--json", *at).stdout)
    assert (told["id"], told["ttl"], told["keys"]) == (lease, 60, ["leased"])
    assert 0 < told["left"] <= 60
    assert b"left of 60 s\n  leased\n" in paxon_here("lease", "ttl", lease, *at).stdout
    kept = paxon_here("lease", "keep", lease, "--once", "--json", *at)
    assert json.loads(kept.stdout) == {"id": lease, "ttl": 60.0}
    ended = json.loads(paxon_here("lease", "revoke", lease, "--json", *at).stdout)
    assert ended["id"] == lease and ended["revision"] > 0
    assert paxon_here("get", "leased", *at).returncode == 3
    for command in (("revoke", lease), ("ttl", lease), ("keep", lease, "--once")):
        done = paxon_here("lease", *command, *at)
        assert done.returncode == 4 and lease in one_sentence(done)
    done = paxon_here("put", "leased", "v", "--lease", lease, *at)
    assert done.returncode == 4 and "lease" in one_sentence(done)
    for wrong in ("x", "0", "-1"):
        assert paxon_here("lease", "ttl", "--", wrong, *at).returncode == 2


def test_keys_that_are_no_utf8_from_a_shell(cluster: LocalCluster, at: tuple[str, str]) -> None:
    run: list[str | bytes] = [
        *PAXON,
        "txn",
        "--then",
        b"put raw\xff v",
        "--then",
        b"get raw\xff",
        *at,
    ]
    done = subprocess.run(run, env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with cluster.client() as kv:
        assert kv.txn(then=[Get(b"raw\xff")]).results == [b"v"]
    found = json.loads(paxon_here("scan", "raw", "--json", *at).stdout)
    assert found == [{"key": {"base64": "cmF3/w=="}, "value": "v"}]
    assert paxon_here("scan", "raw", *at).stdout == b"raw\\xff\tv\n"
    for command in ("get", "delete"):
        run = [*PAXON, command, b"raw\xff", *at]
        done = subprocess.run(run, env=environment(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
