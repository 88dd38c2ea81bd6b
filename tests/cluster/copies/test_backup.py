"""Backups: of one revision whatever is written, never silently wrong, restored as a whole."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from paxon.actors import PaxosServer, ServerRef
from paxon.actors.embedding import AskFigures, Figures
from paxon.actors.messages import StatusReply
from paxon.kvstore.cluster import backup, recovery
from paxon.kvstore.cluster.backup import BackupError
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.local_files import ClusterError
from paxon.kvstore.cluster.node import start_server
from paxon.kvstore.cluster.recovery import REVISIONS_AHEAD, RecoveryError
from paxon.kvstore.errors import Compacted
from paxon.kvstore.recipes.clients import Client
from paxon.kvstore.store.store import KVStore
from paxon.kvstore.testing import MemoryCluster
from tests.cluster.helpers import paxon_here
from tests.faults.disks import no_small_disks, small_disk
from tests.ports import own_ports
from tests.waiting import wait_until


def status_of(server: ServerRef[PaxosServer]) -> StatusReply:
    figures = server.ask(AskFigures())
    assert isinstance(figures, Figures)
    return figures.status


@pytest.fixture
def kv() -> Iterator[Client]:
    with MemoryCluster() as cluster, cluster.client() as client:
        yield client


def describe(directory: Path, servers: int = 1, name: str = "restored") -> ClusterDescription:
    """A cluster file for so many servers, read."""
    ports = own_ports(2 * servers)
    text = f'[cluster]\nid = "{name}"\n'
    for number in range(1, servers + 1):
        peer, client = ports[2 * number - 2 : 2 * number]
        text += f"[[server]]\nid = {number}\npeer_port = {peer}\nclient_port = {client}\n"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cluster.toml").write_text(text, encoding="utf-8")
    return ClusterDescription.read(directory / "cluster.toml")


@contextmanager
def running(cluster: ClusterDescription) -> Iterator[Client]:
    """All servers of a cluster, in this process."""
    with ExitStack() as stack:
        for number, entry in cluster.servers.items():
            plan = cluster.plan(number)
            server = start_server(
                plan.settings, KVStore(), peers=plan.peers, client_bind=entry.client_bind,
                directory=entry.directory,
            )  # fmt: skip
            stack.enter_context(server)
        addresses = list(cluster.client_addresses.values())
        yield stack.enter_context(Client(addresses, timeout=60))


@pytest.mark.slow
def test_what_was_saved_is_restored_into_a_new_cluster(kv: Client, tmp_path: Path) -> None:
    lease = kv.lease(ttl=3600)
    kv.put("of a lease", b"x", lease=lease)
    for number in range(2 * backup.PAGE + 5):
        kv.put(f"key-{number:04}", b"%d" % number)
    kv.put("\udcff not UTF-8", b"\xff\x00")
    kv.append("key-0007", b" and more")
    kv.delete("key-0008")
    before = {entry.key: entry for entry in kv.range(prefix="")}
    file = tmp_path / "store.backup"
    saved = backup.save(kv, file, "orders")
    kv.put("later", b"not in the backup")
    assert saved == backup.verify(file)
    assert (saved.cluster, saved.keys, saved.leases) == ("orders", len(before), 1)

    cluster = describe(tmp_path / "new", servers=3)
    backup.restore(file, cluster, of="orders")
    with running(cluster) as new:
        assert {entry.key: entry for entry in new.range(prefix="")} == before
        (number,) = new.leases()
        info = new.lease_info(number)
        assert info is not None and 3000 < info.left <= 3600 and info.keys == ["of a lease"]
        # Who saw more than the backup holds is told so, and misses nothing in silence.
        revision = new.put("first", b"write")
        assert revision > saved.revision + REVISIONS_AHEAD
        with pytest.raises(Compacted):
            new.range(prefix="", revision=saved.revision + 1)
    with running(cluster) as new:  # and from its own disks again
        assert new.get("first") == b"write" and new.get("key-0009") == b"9"


def test_a_backup_is_of_one_revision_whatever_is_written_meanwhile(
    kv: Client, tmp_path: Path
) -> None:
    for number in range(3 * backup.PAGE):
        kv.put(f"key-{number:05}", b"0")
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():  # the last key first: a later page must not show a later turn
            turn += 1
            for number in (3 * backup.PAGE - 1, 0):
                kv.put(f"key-{number:05}", b"%d" % turn)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        wait_until(lambda: kv.get("key-00000") != b"0")
        saved = backup.save(kv, tmp_path / "b", "orders")
    finally:
        stop.set()
        writing.join()
    rows = [row for part in backup._parts(tmp_path / "b") for row in getattr(part, "rows", ())]
    assert max(row[3] for row in rows) <= saved.revision
    first, last = int(rows[0][1]), int(rows[-1][1])
    assert 0 <= last - first <= 1


def test_a_file_that_is_cut_flipped_or_something_else_is_refused(
    kv: Client, tmp_path: Path
) -> None:
    for number in range(3):
        kv.put(f"key-{number}", b"value")
    file, other = tmp_path / "b", tmp_path / "other"
    backup.save(kv, file, "orders")
    whole = file.read_bytes()
    for size in range(len(whole)):  # at each byte
        other.write_bytes(whole[:size])
        with pytest.raises(BackupError, match=r"was cut|is no backup"):
            backup.verify(other)
    for at in range(len(whole)):
        other.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(BackupError, match=r"is damaged|was cut|is no backup"):
            backup.verify(other)
    frames: list[bytes] = []
    at = len(backup.MAGIC)
    while len(frames) < 4:
        size = backup._FRAME.size + backup._FRAME.unpack_from(whole, at)[0]
        frames.append(whole[at : at + size])
        at += size
    head, page, leases, end = frames
    unlike = ([head, leases, end], [head, page, page, leases, end], [head, page, end])
    for wrong in (whole + b"x", whole + whole, *(b"".join((backup.MAGIC, *u)) for u in unlike)):
        other.write_bytes(wrong)
        with pytest.raises(BackupError, match="is damaged"):
            backup.verify(other)
    cluster = describe(tmp_path / "new", servers=2)
    with pytest.raises(BackupError):
        backup.restore(other, cluster, of="orders")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cluster.toml"]
    for what, words in {"none": "no such file: give", ".": "a directory: give"}.items():
        with pytest.raises(BackupError, match=words):
            backup.verify(tmp_path / what)
    with pytest.raises(BackupError, match="/proc/self/mem: Input/output error"):
        backup.verify(Path("/proc/self/mem"))


def test_what_is_compacted_while_it_is_read_is_read_anew(
    kv: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = backup._write
    compacted = iter([True, True, False])

    def cut_short(kv: Client, file: Any, name: str) -> None:
        if next(compacted, True):
            file.write(bytes(10_000))
            raise Compacted("it is gone")
        write(kv, file, name)

    monkeypatch.setattr(backup, "_write", cut_short)
    kv.put("key", b"value")
    assert backup.save(kv, tmp_path / "b", "orders").keys == 1
    with pytest.raises(BackupError, match="faster than all of it can be read"):
        backup.save(kv, tmp_path / "c", "orders")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_file_of_a_later_format_is_refused(
    kv: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b"
    with monkeypatch.context() as later:
        later.setattr(backup, "FORMAT", backup.FORMAT + 1)
        backup.save(kv, file, "orders")
    cluster = describe(tmp_path / "new")
    said = "has format 2, and this Paxon reads 1: use the release that wrote it"
    with pytest.raises(BackupError, match=said):
        backup.verify(file)
    with pytest.raises(BackupError, match=said):
        backup.restore(file, cluster, of="orders")
    assert not Path(cluster.servers[1].directory).exists()


def test_a_backup_of_another_cluster_is_refused_by_name(kv: Client, tmp_path: Path) -> None:
    file = tmp_path / "b"
    backup.save(kv, file, "orders of today")
    cluster = describe(tmp_path / "new")
    said = "is of cluster 'orders of today', and not of 'restored': .*--from 'orders of today'"
    with pytest.raises(BackupError, match=said):
        backup.restore(file, cluster)
    assert not Path(cluster.servers[1].directory).exists()
    backup.restore(file, cluster, of="orders of today")


@pytest.mark.parametrize("links", [True, False])  # as there are none on a stick
def test_nothing_is_overwritten(
    kv: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "b"
    left = tmp_path / f".b.{os.getpid()}"  # by one that was killed, in a container as a rule
    left.touch()
    backup.save(kv, file, "orders")
    left.unlink()
    assert file.stat().st_mode & 0o777 == 0o600  # it holds all that the directories hold
    with pytest.raises(BackupError, match="is there already"):
        backup.save(kv, file, "orders")
    for wrong, words in {
        "no/such": f"there is no directory {tmp_path}/no: make it first",
        "b/x": "a file is where a directory should be",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(BackupError, match=words):
            backup.save(kv, tmp_path / wrong, "orders")
    with pytest.raises(BackupError, match="not -"):
        backup.save(kv, Path("-"), "orders")
    cluster = describe(tmp_path / "new", servers=2)
    used = Path(cluster.servers[2].directory)
    used.mkdir()
    (used / "notes").touch()
    with pytest.raises(RecoveryError, match="not empty"):
        backup.restore(file, cluster, of="orders")
    assert not Path(cluster.servers[1].directory).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_restoring_that_fails_between_two_directories_leaves_none(
    kv: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    file = tmp_path / "b"
    backup.save(kv, file, "orders")
    cluster = describe(tmp_path / "new", servers=2)
    rename = Path.rename

    def fail_at_the_second(path: Path, target: Path) -> Path:
        if str(target) == cluster.servers[2].directory:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises((KeyboardInterrupt, RecoveryError)):
        backup.restore(file, cluster, of="orders")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cluster.toml"]


def test_of_two_restorings_at_once_one_is_refused(
    kv: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would remove what the other has begun, and put it in place half made."""
    kv.put("motto", b"x")
    file, make = tmp_path / "b", recovery._make
    backup.save(kv, file, "orders")
    cluster = describe(tmp_path / "new", servers=2)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    alone = {2: structs.replace(cluster.servers[2], directory=str(tmp_path / "link" / "server-2"))}

    def meanwhile(*given: Any) -> None:
        with monkeypatch.context() as inner:
            inner.setattr(recovery, "_make", make)
            with pytest.raises(ClusterError, match="is in use by a live process"):
                backup.restore(file, structs.replace(cluster, servers=alone), of="orders")
        make(*given)

    monkeypatch.setattr(recovery, "_make", meanwhile)
    backup.restore(file, cluster, of="orders")
    with running(cluster) as new:
        assert new.get("motto") == b"x"


def test_a_full_disk_is_told_of_in_one_line(kv: Client, tmp_path: Path) -> None:
    """Not by a server's storage, which would warn that it tries again later."""
    if why := no_small_disks():
        pytest.skip(why)
    kv.put("large", os.urandom(600_000))
    place, file = tmp_path / "small", tmp_path / "b"
    backup.save(kv, file, "restored")
    describe(tmp_path / "new", servers=2)
    restore = ("backup", "restore", str(file), "-c", str(tmp_path / "new" / "cluster.toml"))
    with small_disk(place, 500_000):
        with pytest.raises(BackupError, match="the disk is full: free some space"):
            backup.save(kv, place / "b", "restored")
        done = paxon_here(*restore, "--into", str(place / "new"))
        (line,) = done.stderr.decode().splitlines()
        assert "the new directories take 5 MiB, and the disk at " in line
        assert done.returncode == 1 and line.endswith(
            "free some space, or choose another directory; nothing was made"
        )
        assert [path for path in place.rglob("*") if path != place / "new"] == []
    done = paxon_here(*restore, "--into", "/proc/none")
    assert done.stderr.startswith(b"paxon: the new directories cannot be made: /proc/none: ")


def test_two_restorings_are_two_clusters(kv: Client, tmp_path: Path) -> None:
    """Directories of both never serve together."""
    file = tmp_path / "b"
    kv.put("motto", b"x")
    backup.save(kv, file, "orders")
    one, two = describe(tmp_path / "one", 2), describe(tmp_path / "two", 2)
    backup.restore(file, one, of="orders")
    backup.restore(file, two, of="orders")
    with running(one) as new:
        assert new.get("motto") == b"x"
    Path(one.servers[2].directory).rename(tmp_path / "aside")
    Path(two.servers[2].directory).rename(one.servers[2].directory)
    plan = one.plan(1)
    with start_server(
        plan.settings, KVStore(), peers=plan.peers, client_bind=plan.entry.client_bind,
        directory=plan.entry.directory,
    ) as first:  # fmt: skip
        other = one.plan(2)
        with start_server(
            other.settings, KVStore(), peers=other.peers, client_bind=other.entry.client_bind,
            directory=other.entry.directory,
        ):  # fmt: skip
            wait_until(lambda: status_of(first).counters["foreign_frames"] > 0)
            assert status_of(first).role != "leader"


def test_the_command(kv: Client, tmp_path: Path) -> None:
    cluster = describe(tmp_path / "old")
    with running(cluster) as client:
        client.put("motto", b"x")
        addresses = ",".join(cluster.client_addresses.values())
        file = tmp_path / "b"
        done = paxon_here("backup", "save", str(file), "-c", addresses)
        assert done.returncode == 0 and b"1 key and 0 leases of cluster 'restored'" in done.stdout
    assert paxon_here("backup", "verify", str(file)).returncode == 0
    describe(tmp_path / "new", servers=2)
    new = str(tmp_path / "new" / "cluster.toml")
    into = tmp_path / "into"
    done = paxon_here("backup", "restore", str(file), "-c", new, "--into", str(into))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in into.iterdir()) == ["server-1", "server-2"]
    # One of them alone: a cluster of one, which serves by itself.
    alone = ["backup", "restore", str(file), "-c", new, "--into", str(tmp_path / "alone")]
    assert paxon_here(*alone, "--id", "3").returncode == 2
    assert paxon_here(*alone, "--id", "2").returncode == 0
    (made,) = (tmp_path / "alone").iterdir()
    plan = ClusterDescription.read(Path(new)).plan(2)
    with (
        start_server(
            plan.settings, KVStore(), peers=plan.peers, client_bind=plan.entry.client_bind,
            directory=made,
        ),
        Client(plan.entry.client, timeout=60) as client,
    ):  # fmt: skip
        assert made.name == "server-2" and client.get("motto") == b"x"
    file.write_bytes(file.read_bytes()[:-1])
    done = paxon_here("backup", "verify", str(file))
    assert done.returncode == 1 and done.stderr.endswith(b"use another backup\n")
