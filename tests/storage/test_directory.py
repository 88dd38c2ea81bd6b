"""Whose directory it is: every refusal is one sentence, and changes nothing (rule 11)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from paxon.actors import Ballot, CorruptStorage, StorageError
from paxon.actors.disk.data_directory import CONDEMNED_NAME, FORMAT_VERSION, owner_of
from paxon.actors.disk.sqlite_storage import SqliteStorage
from tests.storage.engines import accept, accepted_slots, open_sqlite, take_snapshot
from tests.storage.processes import child, line


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A directory that server 1 of cluster "test" has used and closed."""
    directory = tmp_path / "data"
    storage = open_sqlite(directory, fork=False)
    accept(storage, 1, 2, 3)
    take_snapshot(storage, 2)
    storage.commit()
    storage.close()
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_copy_is_told_from_the_original_until_it_is_used(used: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(used, copy)
    for first in (True, False):
        storage = open_sqlite(copy)
        assert storage.moved == first
        accept(storage, 4 + (not first))
        storage.commit()
        storage.close()


def refused(directory: Path, pattern: str, cluster: str = "test", server: int = 1) -> StorageError:
    """Opening fails with one sentence and changes nothing."""
    before = contents(directory) if directory.is_dir() else {}
    with pytest.raises(StorageError, match=pattern) as caught:
        SqliteStorage(directory, cluster, server)
    text = str(caught.value)
    assert "\n" not in text
    assert str(directory) in text
    assert before == (contents(directory) if directory.is_dir() else {})
    return caught.value


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    open_sqlite(directory).close()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_anyone_can_look_inside_with_sqlite(used: Path) -> None:
    database = sqlite3.connect(f"file:{used}/paxon.db?mode=ro", uri=True)
    rows = database.execute("SELECT slot, round, leader FROM accepted ORDER BY slot").fetchall()
    assert rows == [(1, 1, 1), (2, 1, 1), (3, 1, 1), (2**63 - 1, 0, 0)]  # the last holds the rest:
    last = "SELECT value FROM accepted ORDER BY slot DESC LIMIT 1"
    (meta,) = map(json.loads, database.execute(last).fetchone())
    assert (meta["cluster"], meta["server"], meta["rows"]) == ("test", 1, 3)
    assert (meta["marks"]["promised"], meta["marks"]["snapshot"]["slot"]) == ([1, 1], 2)
    database.close()


def test_what_others_added_to_the_database_is_named(used: Path) -> None:
    """Nothing is lost by it; but with a view SQLite checks less."""
    for kind, name, what in (
        ("view", "seen", "AS SELECT slot FROM accepted"),
        ("index", "rounds", "ON accepted(round)"),
    ):
        with contextlib.closing(sqlite3.connect(used / "paxon.db")) as database:
            database.execute(f"CREATE {kind} {name} {what}")
        with pytest.raises(StorageError, match=f"did not make, {kind} '{name}': drop that with"):
            open_sqlite(used)
        with contextlib.closing(sqlite3.connect(used / "paxon.db")) as database:
            database.execute(f"DROP {kind} {name}")
        open_sqlite(used).close()


def test_other_files_in_the_directory_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("hello")
    storage = open_sqlite(tmp_path)
    storage.close()
    assert (tmp_path / "server.log").read_text() == "hello"


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("hello")
    refused(tmp_path / "data", "there is a file of that name")
    refused(tmp_path / "data" / "below", "a file is where a directory should be|file of that name")


def test_another_cluster(used: Path) -> None:
    refused(used, "belongs to cluster 'test', not to 'other'", cluster="other")


def test_a_witness_of_another_directory(used: Path, tmp_path: Path) -> None:
    """Two clusters may have one name, and a witness of the one does not vouch for the other."""
    open_sqlite(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "paxon.witness", used)
    with pytest.raises(CorruptStorage, match=r"paxon.db and paxon.witness are of two directories"):
        open_sqlite(used)


def test_a_database_deleted_right_after_the_start(used: Path) -> None:
    """Before anything is written: SQLite would make an empty one in its place, and blame that."""
    storage = open_sqlite(used)
    (used / "paxon.db").unlink()
    accept(storage, 4)
    with pytest.raises(StorageError, match=r"paxon.db was deleted or replaced while this server"):
        storage.commit()
    storage.close()
    assert not (used / "paxon.db").exists()


def test_a_database_replaced_right_after_the_start(used: Path) -> None:
    storage = open_sqlite(used)
    (used / "paxon.db").rename(used / "gone")
    (used / "paxon.db").write_bytes((used / "gone").read_bytes())
    with pytest.raises(StorageError, match=r"paxon.db was deleted or replaced while this server"):
        storage.maintain()
    storage.close()


def test_another_server(used: Path) -> None:
    refused(used, "belongs to server 1, not to server 2", server=2)


def test_another_format_version(used: Path) -> None:
    """As format 7 was: what else there stood is nobody's business."""
    head = (
        b"paxon data directory\nformat 7\ncluster c\nserver 1\nidentity 12\nincarnation 34\n"
        b"inode 00000000000000000056\ncommits 00000000000000000078\n"
    )
    (used / "paxon.witness").write_bytes(head + b"checksum %08x\n" % zlib.crc32(head))
    refused(used, f"has format version 7, this Paxon reads {FORMAT_VERSION}")
    assert "has format version 7" in owner_of(used).trouble
    assert not owner_of(used).server


def test_a_witness_that_was_begun_and_no_more_is_none(tmp_path: Path) -> None:
    (tmp_path / "paxon.witness").touch()
    open_sqlite(tmp_path).close()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 10])
def test_a_foreign_file_of_that_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "paxon.db").write_bytes(content)
    refused(tmp_path, "not a Paxon database")


def test_a_foreign_database_of_that_name(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "paxon.db")
    database.execute("CREATE TABLE songs(title)")
    database.close()
    refused(tmp_path, "not a Paxon database")


def test_a_live_process_keeps_others_out(used: Path) -> None:
    with child("hold", used) as process:
        assert line(process) == "ready"
        error = refused(used, f"in use by a live process .pid {process.pid}.")
        assert "stop that one first" in str(error)
        process.kill()
        process.wait()
        storage = open_sqlite(used)  # its lock died with it
        assert accepted_slots(storage) == [1, 2, 3]
        storage.close()


def test_the_same_process_twice(used: Path) -> None:
    storage = open_sqlite(used)
    with pytest.raises(StorageError, match="in use by a live process"):
        open_sqlite(used)
    assert accepted_slots(storage) == [1, 2, 3]
    storage.close()
    open_sqlite(used).close()


def test_a_program_that_writes_to_the_database_is_named_as_the_reason(used: Path) -> None:
    storage = open_sqlite(used)
    storage.maintain()
    storage._query("PRAGMA busy_timeout=0")
    storage.save_promise(Ballot(99, 1))
    with closing(sqlite3.connect(used / "paxon.db", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="is locked by another program"):
            storage.commit()
    storage.close()


def test_a_directory_has_a_name_that_sqlite_takes(tmp_path: Path) -> None:
    above = tmp_path / ("d" * 200)
    above.mkdir()
    room = 500 - len(os.fsencode(above / "x" / "x" / "paxon.db"))
    inside = above / ("d" * (room // 2 + 1))
    open_sqlite(inside / ("d" * (room - room // 2 + 1))).close()
    with pytest.raises(StorageError, match="500 bytes: choose a directory with a shorter one"):
        open_sqlite(inside / ("d" * (room - room // 2 + 2)))


def test_a_refused_opening_leaves_the_lock_free(used: Path) -> None:
    refused(used, "belongs to server 1", server=3)
    open_sqlite(used).close()


@pytest.mark.parametrize(
    ("lost", "pattern"),
    [
        ("paxon.db", "paxon.db is missing although this directory was in use"),
        ("paxon.witness", "paxon.witness is missing"),
    ],
)
def test_a_lost_file(used: Path, lost: str, pattern: str) -> None:
    (used / lost).unlink()
    refused(used, pattern)


def test_a_log_without_its_database(tmp_path: Path) -> None:
    """It would be replayed into the new database."""
    (tmp_path / "paxon.db-wal").write_bytes(b"left behind")
    refused(tmp_path, r"paxon.db is missing although this directory was in use")


def test_a_lost_snapshot(used: Path) -> None:
    (used / "snapshot-2.paxon").unlink()
    with pytest.raises(CorruptStorage, match=r"snapshot-2.paxon is missing"):
        open_sqlite(used)


@pytest.mark.parametrize("last", ["create_witness", "chmod", "rename"])
def test_a_crash_while_the_directory_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Whatever step was the last, the next start finds a usable directory."""
    directory = tmp_path / "data"
    with monkeypatch.context() as patched:
        if last == "create_witness":
            patched.setattr("paxon.actors.disk.sqlite_storage.sqlite3.connect", _die)
        else:
            patched.setattr(Path, last, _die)
        with pytest.raises(KeyboardInterrupt):
            open_sqlite(directory)
    storage = open_sqlite(directory)
    accept(storage, 1)
    storage.commit()
    storage.close()
    storage = open_sqlite(directory)
    assert accepted_slots(storage) == [1]
    storage.close()


def _die(*_arguments: object, **_options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_the_right_to_write(exists: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        directory = Path(root) / "data"
        if exists:
            directory.mkdir(mode=0o755)
        as_nobody(lambda: refused(directory, "permission is denied"))


def test_a_directory_of_another_user(used: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    as_nobody(lambda: refused_unseen(used))


def refused_unseen(directory: Path) -> None:
    with pytest.raises(StorageError, match="permission is denied"):
        open_sqlite(directory)


def as_nobody(act: Callable[[], object]) -> None:
    os.seteuid(65534)
    try:
        act()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["paxon.db", "paxon.db-wal", "paxon.witness", "paxon.lock"])
@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_deleted_under_a_running_server(
    tmp_path: Path, name: str, replaced: bool
) -> None:
    storage = open_sqlite(tmp_path)
    for _ in range(20):
        storage.maintain()
    file = tmp_path / name
    content = file.read_bytes()
    file.rename(tmp_path / "elsewhere")
    if replaced:
        file.write_bytes(content)
    with pytest.raises(StorageError, match=f"{name} was deleted or replaced") as caught:
        for _ in range(20):
            storage.maintain()
    assert "\n" not in str(caught.value)
    storage.close()


def test_the_witness_is_one_write_of_one_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[int, int]] = []
    real = os.pwrite

    def noted(descriptor: int, data: bytes, offset: int) -> int:
        if b"commits" in data:
            writes.append((len(data), offset))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    storage = open_sqlite(tmp_path)
    for slot in range(1, 20):
        accept(storage, slot)
        storage.commit()
        storage.maintain()
    storage.close()
    assert len(writes) > 10
    assert {offset for _, offset in writes} == {0}
    assert len({length for length, _ in writes}) == 1 and writes[0][0] <= 512


def test_nothing_is_wrong_with_a_disk_whose_directory_was_emptied(used: Path) -> None:
    storage = open_sqlite(used)
    for path in used.iterdir():
        path.unlink()
    assert storage._directory.unwritable() is None
    storage.close()


@pytest.mark.parametrize("name", ["paxon.db", "paxon.witness", "paxon.db-wal", CONDEMNED_NAME])
def test_what_cannot_be_looked_at_is_not_taken_for_absent(
    used: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a disk that is not readable for a moment would be a new one, which promised nothing."""
    if not (used / name).exists():
        (used / name).write_bytes(b"")
    look = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path == used / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return look(path, **options)

    def exists(path: Path) -> bool:  # as it is from Python 3.14 on
        try:
            path.stat()
        except OSError:
            return False
        return True

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(StorageError, match="the disk reports an input/output error"):
        open_sqlite(used, fork=False)
