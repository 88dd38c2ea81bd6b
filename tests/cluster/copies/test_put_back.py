"""Copies, backups and restarts on real processes: refused or consistent, never silently wrong."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from paxon.kvstore.cluster import backup
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.cluster.node import ServerStartError, start_server
from paxon.kvstore.errors import Compacted, WrongCluster
from paxon.kvstore.recipes.clients import Client
from paxon.kvstore.store.store import KVStore
from tests.cluster.belonging.test_making import PATIENCE, Servers
from tests.cluster.copies.test_old_copies import copy
from tests.cluster.helpers import paxon_here
from tests.ports import own_ports
from tests.soak import SOAK, sized
from tests.waiting import wait_until

pytestmark = pytest.mark.process


class Writer:
    """Counts in two keys, one after the other, until it is told to stop."""

    def __init__(self, kv: Client, size: int = 3000) -> None:
        """`size`: of each value, bytes."""
        self.kv, self.size = kv, size
        self.acknowledged = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            for key in ("a", "b"):
                self.kv.put(key, f"{number:08}{'x' * self.size}")
            self.acknowledged = number

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Writer]:
        self._thread.start()
        try:
            wait_until(lambda: self.acknowledged > 0)
            yield self
        finally:
            self._stop.set()
            self._thread.join()


def counts(kv: Client) -> tuple[int, int]:
    """What the two keys are at, after one revision."""
    return tuple(int((kv.get(key) or b"0")[:8]) for key in ("a", "b"))  # type: ignore[return-value]


def test_a_directory_that_is_copied_while_its_server_runs(tmp_path: Path) -> None:
    """Nobody else remembers what a cluster of one has told: the copy itself has to be whole. It is
    if it is of one moment, and must be refused where one file of it is older than the log allows;
    what `cp` makes meanwhile may be either."""
    early, late, mixed = (tmp_path / name for name in ("early", "late", "mixed"))
    with (
        LocalCluster(1, tmp_path / "data") as cluster,
        cluster.client(timeout=PATIENCE) as kv,
        Writer(kv, size=30_000).at_work() as writer,  # (so that the log soon begins anew)
    ):
        described = ClusterDescription.read(cluster.directory / "cluster.toml")
        directory = cluster.directory / "server-1"

        def copied_to(target: Path) -> tuple[int, int]:
            """The least and the most that a copy may show."""
            before = writer.acknowledged
            with contextlib.suppress(shutil.Error):  # a file is gone before its turn comes
                copy(directory, target)
            return before, writer.acknowledged + 1

        bounds = {}
        for target in (early, late):
            if target is late:
                wait_until(lambda: _began_anew(directory, early), "the log begins anew")
            cluster.pause(1)
            bounds[target] = copied_to(target)
            cluster.resume(1)
        for older in ("paxon.db", "paxon.db-wal"):
            copy(late, mixed)
            shutil.copy2(early / older, mixed / older)
            with pytest.raises(ServerStartError, match=f"{re.escape(str(mixed))}.*empty the dir"):
                opened(described, mixed)
        for target in (early, late):
            check_counts(opened(described, target), *bounds[target])
        refused = 0
        for _ in range(sized(2, 100)):
            least, most = copied_to(mixed)
            try:
                found = opened(described, mixed)
            except ServerStartError as error:
                assert str(mixed) in str(error), error  # and what to do
                refused += 1
            else:
                check_counts(found, least, most)
            wait_until(lambda seen=most: writer.acknowledged > seen + 20)  # type: ignore[misc]
    print(f"{refused} of {sized(2, 100)} copies that took their time were refused")


def check_counts(found: tuple[int, int], least: int, most: int) -> None:
    """What `Writer` had written at one moment between these."""
    first, second = found
    assert least <= second <= first <= second + 1 <= most + 1


def _began_anew(directory: Path, copy_of_it: Path) -> bool:
    """Whether SQLite has begun its log anew since, and the database holds what was in it."""
    salts = [(path / "paxon.db-wal").read_bytes()[16:24] for path in (directory, copy_of_it)]
    sizes = [(path / "paxon.db").stat().st_size for path in (directory, copy_of_it)]
    return len(salts[0]) == 8 and salts[0] != salts[1] and sizes[0] > 2 * sizes[1]


def opened(described: ClusterDescription, directory: Path) -> tuple[int, int]:
    """What a server serves that is started on a directory; the running one is left alone."""
    ports = own_ports(2)
    peer, client = (f"tcp://127.0.0.1:{port}" for port in ports)
    entry = structs.replace(
        described.servers[1], peer=peer, client=client, peer_bind=peer, client_bind=client
    )
    plan = structs.replace(described, servers={1: entry}).plan(1)
    with (
        start_server(
            plan.settings, KVStore(), peers=plan.peers, client_bind=client, directory=directory
        ),
        Client(client, timeout=PATIENCE) as kv,
    ):
        return counts(kv)


@pytest.mark.skipif(not SOAK, reason="only in make soak: backups while serving are in test_backup")
def test_copies_that_are_made_while_leaders_are_killed_hold_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    """As from cron: each is of one revision, and has all that was acknowledged before it began."""
    files: list[tuple[int, Path]] = []
    with (
        LocalCluster(3, tmp_path / "data") as cluster,
        cluster.client(timeout=PATIENCE) as kv,
        Writer(kv).at_work() as writer,
    ):
        for turn in range(sized(2, 60)):
            leader = cluster.leader(PATIENCE)
            file = tmp_path / f"{turn}.backup"
            files.append((writer.acknowledged, file))
            killing = threading.Thread(target=cluster.kill, args=(leader,))
            killing.start()
            where = ",".join(cluster.addresses)
            done = paxon_here("backup", "save", str(file), "-c", where, "--timeout", "60")
            killing.join()
            assert done.returncode == 0, done.stderr
            cluster.restart(leader)
    revisions = []
    for least, file in files:
        revisions.append(backup.verify(file).revision)
        rows = {
            row[0]: int(row[1][:8])
            for part in backup._parts(file)
            for row in getattr(part, "rows", ())
        }
        assert least <= rows[b"b"] <= rows[b"a"] <= rows[b"b"] + 1
    assert revisions == sorted(revisions)


def test_one_backup_is_restored_twice_under_the_same_clients(tmp_path: Path) -> None:
    """The ports stay, the clients too: each is told that this is another cluster, and none misses
    in silence what was put after a restoring (etcd #14303, #16028)."""
    servers = Servers(tmp_path, 1)
    file, target = tmp_path / "b", tmp_path / "server-1"
    with contextlib.ExitStack() as stack:
        stack.callback(servers.end)
        servers.start(1, (1,))
        clients: list[Client] = []

        def new_client() -> Client:
            clients.append(stack.enter_context(Client(servers.address(1), timeout=PATIENCE)))
            return clients[-1]

        kv = new_client()
        kv.put("k", "saved")
        backup.save(kv, file, "made")
        seen = [kv.put("k", "lost")]
        for restoring in (1, 2):
            watching = iter(kv.watch("k"))
            servers.stop(1)
            target.rename(tmp_path / f"before-{restoring}")
            done = paxon_here(
                "backup", "restore", str(file), "-c", str(tmp_path / "cluster-1.toml")
            )
            assert done.returncode == 0, done.stderr
            servers.start(1, (1,))
            kv = new_client()
            assert kv.get("k") == b"saved"
            first = kv.put("k", f"put {restoring}")
            for old in clients[:-1]:
                with pytest.raises(WrongCluster):
                    old.put("k", "from the old cluster")
            with pytest.raises(WrongCluster):
                next(watching)
            for revision in seen:  # whoever goes on from what a former cluster said
                assert first > revision
                with pytest.raises(Compacted):
                    next(iter(kv.watch("k", after=revision)))
            seen.append(kv.put("k", "and more"))
    shutil.rmtree(tmp_path / "before-1")


def test_one_member_that_is_killed_at_each_answer_has_all_of_them(tmp_path: Path) -> None:
    """etcd #14370: acknowledged, killed, started again, and what was acknowledged is there."""
    with LocalCluster(1, tmp_path) as cluster:
        for number in range(sized(2, 1000)):
            with cluster.client(timeout=PATIENCE) as kv:
                kv.append("k", f" {number}")
                cluster.kill(1)
            cluster.restart(1)
        with cluster.client(timeout=PATIENCE) as kv:
            assert (kv.get("k") or b"").split() == [b"%d" % n for n in range(sized(2, 1000))]
