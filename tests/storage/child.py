"""Other processes for the storage tests: `python child.py MODE DIRECTORY`."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from paxon.actors import Ballot, StorageError
from paxon.actors.disk.sqlite_storage import SqliteStorage

MIB = 1 << 20


def say(text: object) -> None:
    print(text, flush=True)


def state(slot: int) -> list[bytes]:
    return [b"state %d" % slot] * 1000


def hold(storage: SqliteStorage) -> None:
    """Keep the directory in use until stdin ends."""
    say("ready")
    sys.stdin.read()


def commit_for_ever(storage: SqliteStorage) -> None:
    """Say each slot once its commit has returned; discard what snapshots cover."""
    found = storage.load()
    ballot = Ballot(found.promised.round + 1, 1)
    storage.save_promise(ballot)
    storage.commit()
    say(f"promised {ballot.round}")
    slot = max([found.discarded, *(held.slot for held in found.accepted)])
    while True:
        for _ in range(3):
            slot += 1
            storage.save_accepted(slot, ballot, b"%d " % slot * (slot % 500))
        storage.commit()
        say(f"accepted {slot}")
        if slot % 60 == 0 and not storage.taking_snapshot:
            storage.begin_snapshot(slot, partial(state, slot))
        info = storage.poll_snapshot()
        if info is not None:
            storage.commit()
            storage.discard_to(info.slot - 20)
        storage.maintain()


def hang_in_snapshot(storage: SqliteStorage) -> None:
    """Begin a snapshot that takes for ever, and say which process takes it."""
    note = Path(sys.argv[2]).parent / "child.pid"

    def produce() -> Iterator[bytes]:
        note.write_text(str(os.getpid()))
        while True:
            yield b"piece"
            time.sleep(0.01)

    storage.begin_snapshot(1, produce)
    while not note.exists() or not note.read_text():
        time.sleep(0.005)
    say(note.read_text())
    sys.stdin.read()


def hit_a_size_limit(storage: SqliteStorage) -> None:
    """Commit until the operating system lets no file grow any more."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB))
    storage.save_promise(Ballot(1, 1))
    for slot in range(1, 1000):
        storage.save_accepted(slot, Ballot(1, 1), b"x" * 100_000)
        storage.commit()
        say(f"accepted {slot}")


MODES = {
    mode.__name__: mode for mode in (hold, commit_for_ever, hang_in_snapshot, hit_a_size_limit)
}

if __name__ == "__main__":
    try:
        MODES[sys.argv[1]](SqliteStorage(sys.argv[2], "test", 1))
    except StorageError as error:
        say(f"failed {error}")
