"""No descriptor is left: whatever needs one fails for now, and the log goes on."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loguru import logger

from tests.storage.engines import accept, info_of, open_sqlite, take_snapshot, wait_for_snapshot


@contextmanager
def no_descriptors() -> Iterator[None]:
    """While inside, this process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    sink = logger.add(found.append, format="{message}")
    yield found
    logger.remove(sink)


@pytest.mark.parametrize("fork", [True, False])
def test_a_snapshot_is_taken_later(tmp_path: Path, lines: list[str], fork: bool) -> None:
    storage = open_sqlite(tmp_path, fork=fork)
    accept(storage, 1)
    storage.commit()
    with no_descriptors():
        storage.begin_snapshot(1, lambda: [b"image"])
        assert wait_for_snapshot(storage) is None
        accept(storage, 2)
        storage.commit()
        storage.maintain()
    assert any("could not take a snapshot at slot 1: Too many open files" in x for x in lines)
    take_snapshot(storage, 2)
    storage.commit()
    storage.close()


def test_a_snapshot_that_cannot_be_opened_counts_later(tmp_path: Path) -> None:
    storage = open_sqlite(tmp_path)
    accept(storage, 1)
    storage.commit()
    take_snapshot(storage, 1)
    with no_descriptors():
        storage.commit()
        assert storage.read_snapshot(1, 0, 10) == b""
        accept(storage, 2)
        storage.commit()
    accept(storage, 3)
    storage.commit()
    assert storage.read_snapshot(1, 0, 10) == b"image"
    storage.close()


def test_anothers_snapshot_is_fetched_later(tmp_path: Path, lines: list[str]) -> None:
    storage = open_sqlite(tmp_path)
    with no_descriptors():
        assert storage.receive_snapshot(info_of(5, b"image"), 0, b"image") == -1
    assert any("another's snapshot at slot 5: Too many open files" in text for text in lines)
    assert storage.receive_snapshot(info_of(5, b"image"), 0, b"image") == 5
    assert storage.adopt_snapshot(info_of(5, b"image"))
    with no_descriptors():
        storage.commit()
        assert storage.read_snapshot(5, 0, 10) == b"image"
    storage.close()


def test_the_size_is_what_it_was(tmp_path: Path) -> None:
    storage = open_sqlite(tmp_path)
    size = storage.size_bytes()
    assert size > 0
    with no_descriptors():
        assert storage.size_bytes() == size
    storage.close()
