"""The load's verdict bites: a store that loses, forgets or repeats a write is found out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self, cast

import pytest

from paxon.kvstore import Client, RequestTimeout
from tests.cluster.helpers import wait_until
from tests.faults.load import Load


class Store:
    """A store in memory that is right unless told to be wrong; stands in for clients.

    What it does wrong must show in every run, however the threads take turns: `wronged` counts what
    no order of the operations can explain.
    """

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.data: dict[str, bytes] = {}
        self.writes = 0
        self.wronged = 0
        self._writers: dict[str, int] = {}
        """Which thread wrote what a key holds."""
        self._stuck: set[str] = set()
        """Keys that lose every write."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing to close."""

    def _goes_wrong(self, key: str, where: str) -> bool:
        self.writes += where in key
        return where in key and self.writes % 20 == 0

    def _loses(self, key: str) -> bool:
        """Whether a write of `key` is lost, from the first put on that cannot go unnoticed.

        What the key holds was written by the thread that puts now, so before this put began; as
        no later write takes either, whoever reads the key in the end sees a value from the past.
        Another thread's value might have been written while this put was under way, and a later
        write would hide the loss.
        """
        if self.fault == "lost put" and key not in self._stuck:
            mine = self._writers.get(key) == threading.get_ident()
            if mine and self.writes >= 20 and "shared" in key:
                self._stuck.add(key)
                self.wronged += 1
        return key in self._stuck

    def _write(self, key: str, value: bytes) -> None:
        self.data[key] = value
        self._writers[key] = threading.get_ident()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            if self.fault == "old value" and self._goes_wrong(key, "shared"):
                self.wronged += 1
                return b"what was never there"
            return self.data.get(key)

    def put(self, key: str, value: bytes) -> None:
        with self._lock:
            self.writes += self.fault == "lost put"
            if not self._loses(key):
                self._write(key, value)

    def append(self, key: str, value: bytes) -> int:
        with self._lock:
            wrong = self.fault in ("lost append", "twice", "timeout") and self._goes_wrong(
                key, "ledger"
            )
            self.wronged += wrong
            longer = self.data.get(key, b"") + value
            if not (wrong and self.fault == "lost append") and key not in self._stuck:
                self._write(key, longer)
            if wrong and self.fault == "twice":
                self.data[key] += value
            if wrong and self.fault == "timeout":
                raise RequestTimeout("no answer")
            return len(longer)

    def delete(self, key: str) -> bool:
        with self._lock:
            there = key in self.data
            if key not in self._stuck:
                self.data.pop(key, None)
                self._writers.pop(key, None)
            return there

    def compare_and_set(self, key: str, expected: bytes | None, new: bytes) -> bool:
        with self._lock:
            if self.data.get(key) != expected:
                return False
            if key not in self._stuck:
                self._write(key, new)
            return True


def run(fault: str) -> tuple[Load, Client]:
    made = Store(fault)
    store = cast("Any", made)
    with Load(lambda _: store, clients=3, keys=3, pause=0.0005) as load:
        load.wait_for_more(300)
        if fault:
            wait_until(lambda: made.wronged > 0 or bool(load.errors), "the store goes wrong", 120.0)
    return load, store


def test_a_right_store_passes(tmp_path: Path) -> None:
    load, store = run("")
    found = load.verify(store, tmp_path / "history.jsonl")
    assert found.operations >= 300
    assert (found.unknown, found.lost, load.timeouts) == (0, 0, 0)
    assert found.acknowledged > 100


def test_unknown_outcomes_may_have_happened(tmp_path: Path) -> None:
    load, store = run("timeout")
    found = load.verify(store, tmp_path / "history.jsonl")
    assert found.unknown == load.timeouts > 0


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("lost append", "acknowledged and lost"),
        ("twice", "ledger/"),
        ("lost put", "shared/"),
        ("old value", "shared/"),
    ],
)
def test_a_wrong_store_is_found_out(fault: str, complaint: str, tmp_path: Path) -> None:
    load, store = run(fault)
    with pytest.raises(AssertionError, match=complaint):
        load.verify(store, tmp_path / "history.jsonl")
