"""The load's verdict bites: a store that loses, forgets or repeats a write is found out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from paxon.kvstore import Client, RequestTimeout
from tests.faults.load import Load


class Store:
    """A store in memory that is right unless told to be wrong; stands in for clients."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.data: dict[str, bytes] = {}
        self.writes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing to close."""

    def _goes_wrong(self, key: str, where: str) -> bool:
        self.writes += where in key
        return where in key and self.writes % 20 == 0

    def get(self, key: str) -> bytes | None:
        with self._lock:
            if self.fault == "old value" and self._goes_wrong(key, "shared"):
                return b"what was never there"
            return self.data.get(key)

    def put(self, key: str, value: bytes) -> None:
        with self._lock:
            if self.fault == "lost put" and self._goes_wrong(key, "shared"):
                return
            self.data[key] = value

    def append(self, key: str, value: bytes) -> int:
        with self._lock:
            wrong = self.fault in ("lost append", "twice", "timeout") and self._goes_wrong(
                key, "ledger"
            )
            length = len(self.data.get(key, b"") + value)
            if not (wrong and self.fault == "lost append"):
                self.data[key] = self.data.get(key, b"") + value
            if wrong and self.fault == "twice":
                self.data[key] += value
            if wrong and self.fault == "timeout":
                raise RequestTimeout("no answer")
            return length

    def delete(self, key: str) -> bool:
        with self._lock:
            return self.data.pop(key, None) is not None

    def compare_and_set(self, key: str, expected: bytes | None, new: bytes) -> bool:
        with self._lock:
            if self.data.get(key) != expected:
                return False
            self.data[key] = new
            return True


def run(fault: str) -> tuple[Load, Client]:
    store = cast(Any, Store(fault))
    with Load(lambda _: store, clients=3, keys=3, pause=0.0005) as load:
        load.wait_for_more(300)
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
