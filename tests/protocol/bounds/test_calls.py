"""What a put costs servers, in calls of Python's: a bound that no busy machine can break.

Trust at the edges had made each put a fifth dearer, a call here and a call there, and no test saw
it. Whoever has a good reason to go beyond a bound says so by raising it.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from paxon.actors.ballot import Ballot
from paxon.actors.disk.sqlite_storage import SqliteStorage
from tests.harness import Cluster

PUTS = 100
PUT_CALLS = 206
"""Of three servers in memory together, for each put of a client that waits for every answer."""
COMMIT_CALLS = 18
"""For each commit of one slot to SQLite, and what follows it."""


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of Paxon's own functions."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        ours = event == "call" and str(frame.f_globals.get("__name__")).startswith("paxon.")
        if ours and frame.f_code.co_name != "_sink":  # (how many, depends on what ran before)
            calls[frame.f_code.co_qualname] += 1

    gc.collect()  # what other tests left behind is finalized now, and not while calls are counted
    gc.disable()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        gc.enable()


def test_a_put_takes_no_more_calls_than_it_did() -> None:
    cluster = Cluster().start(1, 2, 3)
    cluster.lead(1)
    session = cluster.open_session(1)
    with counted() as calls:
        for seq in range(1, PUTS + 1):
            cluster.command(1, session, seq, b"put", acked=seq)
            cluster.stabilize()
    assert len(cluster.applied(1)) == PUTS
    assert calls.total() / PUTS <= PUT_CALLS, calls.most_common(40)


def test_a_commit_takes_no_more_calls_than_it_did(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "data", "test", 1)
    ballot = Ballot(1, 1)
    storage.save_promise(ballot)
    storage.commit()
    with counted() as calls:
        for slot in range(1, PUTS + 1):
            storage.save_accepted(slot, ballot, b"value")
            storage.save_chosen_to(slot - 1)
            storage.save_counts({2: slot, 3: slot})
            storage.commit()
            storage.maintain(tidy=False)
    storage.close()
    assert calls.total() / PUTS <= COMMIT_CALLS, calls.most_common(40)


def test_a_value_is_gone_through_once() -> None:
    """Its row on the disk and the chain of hashes share a CRC-32 of all its bytes."""
    passes = 0

    def note(_frame: FrameType, event: str, function: object) -> None:
        nonlocal passes
        if event == "c_call" and getattr(function, "__name__", "") == "crc32":
            passes += 1

    cluster = Cluster().start(1, 2, 3)
    cluster.lead(1)
    session = cluster.open_session(1)
    sys.setprofile(note)
    try:
        cluster.command(1, session, 1, bytes(100_000))
        cluster.stabilize()
    finally:
        sys.setprofile(None)
    assert passes == 3 * 2, "a value and its replies, at each of three servers"
