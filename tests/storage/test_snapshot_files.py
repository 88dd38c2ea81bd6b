"""Snapshots taken by a forked child, and received ones that survive a restart."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from loguru import logger

from paxon.actors import CorruptStorage, StorageError
from paxon.actors.disk import room
from paxon.actors.disk.sqlite_storage import SqliteStorage
from tests.storage.engines import (
    SqliteEngine,
    accept,
    info_of,
    open_sqlite,
    take_snapshot,
    wait_for_snapshot,
)
from tests.waiting import wait_until


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteStorage]:
    opened = open_sqlite(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def test_a_snapshot_that_the_disk_cannot_read_is_told_in_a_sentence(
    storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    accept(storage, 1)
    take_snapshot(storage, 1)
    storage.commit()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(StorageError, match=r"data: the disk reports an input/output"):
            storage.read_snapshot(1, 0, 10)
    assert storage.read_snapshot(1, 0, 10) == b"image"


def test_the_image_is_of_the_state_as_it_was(storage: SqliteStorage) -> None:
    state = {"key": b"before"}

    def produce() -> Iterator[bytes]:
        time.sleep(0.05)
        yield state["key"]

    storage.begin_snapshot(1, produce)
    state["key"] = b"after"
    assert storage.poll_snapshot() is None  # and it does not wait
    assert wait_for_snapshot(storage) == info_of(1, b"before")


def test_commits_go_on_while_it_is_taken(storage: SqliteStorage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def produce() -> Iterator[bytes]:
        wait_until(gate.exists)
        yield b"state"

    storage.begin_snapshot(1, produce)
    for slot in range(1, 50):
        accept(storage, slot)
        storage.commit()
        assert storage.taking_snapshot
    gate.touch()
    assert wait_for_snapshot(storage) == info_of(1, b"state")


def test_a_process_with_sockets_and_threads(storage: SqliteStorage) -> None:
    """ZeroMQ goes on as if nothing had happened, and the child closes only its own copies."""
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{port}")
    ending = threading.Event()
    busy = threading.Thread(target=ending.wait)
    busy.start()
    try:
        for slot in range(1, 20):
            storage.begin_snapshot(slot, lambda: [b"state"])
            dealer.send(b"ping")
            sender, data = router.recv_multipart()
            router.send_multipart([sender, data])
            assert dealer.recv() == b"ping"
            assert wait_for_snapshot(storage) == info_of(slot, b"state")
            storage.commit()
    finally:
        ending.set()
        busy.join()
        context.destroy(linger=0)


def test_the_child_holds_no_port(storage: SqliteStorage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    begun = tmp_path / "begun"
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def produce() -> Iterator[bytes]:
        begun.touch()
        wait_until(gate.exists)
        yield b"state"

    storage.begin_snapshot(1, produce)
    wait_until(begun.exists)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    gate.touch()
    assert wait_for_snapshot(storage) is not None


def test_signals_to_the_child_do_not_reach_the_servers_handlers(
    storage: SqliteStorage, tmp_path: Path, log: list[str]
) -> None:
    note = tmp_path / "pid"

    def produce() -> Iterator[bytes]:
        note.write_text(str(os.getpid()))
        time.sleep(60)
        yield b"never"

    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: caught.append(number))
    try:
        storage.begin_snapshot(1, produce)
        wait_until(lambda: note.exists() and note.read_text() != "")
        os.kill(int(note.read_text()), signal.SIGTERM)
        assert wait_for_snapshot(storage) is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == []
    assert "the child process was killed" in log[0]


@pytest.mark.parametrize("fork", [True, False])
def test_a_failing_image_is_reported_and_service_goes_on(
    tmp_path: Path, log: list[str], fork: bool
) -> None:
    storage = open_sqlite(tmp_path / "data", fork=fork)

    def produce() -> Iterator[bytes]:
        yield b"a beginning"
        raise ValueError("a bug in the user's snapshot()")

    storage.begin_snapshot(1, produce)
    assert wait_for_snapshot(storage) is None
    assert len(log) == 1
    assert "could not take a snapshot at slot 1: ValueError: a bug in the user's" in log[0]
    assert list((tmp_path / "data").glob("*.tmp")) == []
    take_snapshot(storage, 1)
    storage.commit()
    assert storage.read_snapshot(1, 0, 9) == b"image"
    storage.close()


def test_a_fork_that_fails(
    storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", fork)
        storage.begin_snapshot(1, lambda: [b"state"])
    assert wait_for_snapshot(storage) is None
    assert "Resource temporarily unavailable" in log[0]
    assert take_snapshot(storage, 1) == info_of(1, b"image")


def test_a_child_reaped_by_somebody_else(storage: SqliteStorage) -> None:
    storage.begin_snapshot(1, lambda: [b"state"])
    os.waitpid(-1, 0)
    assert wait_for_snapshot(storage) == info_of(1, b"state")


def test_closing_ends_the_child(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def produce() -> Iterator[bytes]:
        note.write_text(str(os.getpid()))
        time.sleep(60)
        yield b"never"

    storage = open_sqlite(tmp_path / "data")
    storage.begin_snapshot(1, produce)
    wait_until(lambda: note.exists() and note.read_text() != "")
    storage.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
    assert list((tmp_path / "data").glob("*.tmp")) == []


def test_small_and_large_pieces_make_one_image(storage: SqliteStorage) -> None:
    pieces = [
        b"a",
        b"",
        b"b" * 70_000,
        b"c" * 10,
        b"d" * 3_000_000,
        *[b"e%d" % n for n in range(99)],
    ]
    storage.begin_snapshot(1, lambda: pieces)
    image = b"".join(pieces)
    assert wait_for_snapshot(storage) == info_of(1, image)
    storage.commit()
    assert storage.read_snapshot(1, 0, len(image)) == image


# --- files ---------------------------------------------------------------------------------------


def names(engine: SqliteEngine) -> set[str]:
    return {p.name for p in engine.directory.iterdir() if not p.name.startswith("paxon.")}


def test_files_that_nobody_needs_are_deleted(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    for slot in (1, 2, 3):
        take_snapshot(engine.storage, slot)
        engine.storage.commit()
    assert names(engine) == {"snapshot-3.paxon"}
    (engine.directory / "snapshot-9.tmp").write_bytes(b"half")
    (engine.directory / "snapshot-8.paxon").write_bytes(b"never committed")
    found = names(engine)
    engine.restart()
    assert names(engine) == found  # opening alone changes nothing
    engine.storage.maintain()
    assert names(engine) == {"snapshot-3.paxon"}


def test_a_transfer_goes_on_after_a_restart(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    image = b"0123456789" * 1000
    info = info_of(50, image)
    engine.storage.receive_snapshot(info, 0, image[:4000])
    storage = engine.crash()
    assert storage.receive_snapshot(info, 0, b"") == 4000
    storage.receive_snapshot(info, 4000, image[4000:7000])
    storage = engine.restart()
    assert storage.receive_snapshot(info, 0, b"") == 7000
    storage.receive_snapshot(info, 7000, image[7000:])
    assert storage.adopt_snapshot(info)
    storage.commit()
    assert engine.restart().load().snapshot == info
    assert names(engine) == {"snapshot-50.paxon"}


def test_a_transfer_damaged_on_disk_is_thrown_away(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    image = b"0123456789" * 1000
    info = info_of(50, image)
    engine.storage.receive_snapshot(info, 0, image[:4000])
    engine.storage.close()
    path = engine.directory / "incoming-50.tmp"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    storage = engine.crash()
    assert storage.receive_snapshot(info, 4000, image[4000:]) == len(image)
    assert not storage.adopt_snapshot(info)
    assert names(engine) == set()


def test_a_transfer_of_an_older_snapshot_is_deleted(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    engine.storage.receive_snapshot(info_of(50, b"0123456789"), 0, b"0123")
    take_snapshot(engine.storage, 60)
    engine.storage.commit()
    assert names(engine) == {"snapshot-60.paxon"}


def test_one_that_was_taken_in_vain_leaves_nothing(tmp_path: Path) -> None:
    """Done, but another's begins to come before anybody has looked."""
    engine = SqliteEngine(tmp_path, fork=True)
    engine.storage.begin_snapshot(1, lambda: [b"state"])
    wait_until(lambda: names(engine) == {"snapshot-1.paxon"})
    engine.storage.receive_snapshot(info_of(50, b"0123456789"), 0, b"0123")
    assert names(engine) == {"incoming-50.tmp"}


def test_anothers_that_finds_no_room_does_not_end_the_one_that_is_taken(
    storage: SqliteStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one lets the log go, which makes room."""
    gate = tmp_path / "gate"
    storage.begin_snapshot(1, lambda: [b"state"], lambda _: wait_until(gate.exists))
    with monkeypatch.context() as patch:
        patch.setattr(room, "_free", lambda _: 0)
        assert storage.receive_snapshot(info_of(50, b"0123456789"), 0, b"") == -1
    gate.touch()
    assert wait_for_snapshot(storage) == info_of(1, b"state")


@pytest.mark.parametrize("damage", ["header", "image", "shorter"])
def test_a_damaged_snapshot_is_not_loaded(tmp_path: Path, damage: str) -> None:
    engine = SqliteEngine(tmp_path)
    take_snapshot(engine.storage, 5)
    engine.storage.commit()
    path = engine.directory / "snapshot-5.paxon"
    data = bytearray(path.read_bytes())
    if damage == "shorter":
        del data[-1]
    else:
        data[20 if damage == "header" else -1] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptStorage, match=r"snapshot-5.paxon"):
        engine.crash().load()
