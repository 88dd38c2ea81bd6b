"""Copies of data directories that are put back, on real processes (docs/design/old-copies.md)."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from paxon.kvstore.cluster.local_cluster import ClusterError, LocalCluster
from tests.cluster.helpers import wait_until
from tests.soak import sized

WRITES = sized(200, 1000)
REBUILT = "paxon.db-shm"
"""The index of the write-ahead log, made anew by whoever reads it; no state is in it."""


def copy(source: Path, target: Path) -> None:
    """As `cp -a` does, except for the lock, which is a live process's."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("paxon.lock"))


def contents(path: Path) -> dict[str, bytes]:
    left_out = ("paxon.lock", "server.log", REBUILT)
    found = {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name not in left_out}
    return {name: data for name, data in found.items() if data}  # (an empty log is none)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False], ids=["copied while it runs", "while stopped"])
def test_an_old_copy_is_refused_and_nothing_is_lost(tmp_path: Path, running: bool) -> None:
    with (
        LocalCluster(servers=3, directory=tmp_path / "data") as cluster,
        cluster.client(timeout=60) as kv,
    ):
        for number in range(20):
            kv.put(f"before/{number}", b"x")
        mine = cluster.directory / "server-2"
        if not running:
            cluster.stop_server(2)
        copy(mine, tmp_path / "copy")
        if not running:
            cluster.restart(2)
        for number in range(WRITES):
            kv.put(f"k{number % 50}", b"%d" % number)
        cluster.stop_server(2)
        copy(mine, tmp_path / "newest")
        copy(tmp_path / "copy", mine)
        before = contents(mine)
        with contextlib.suppress(ClusterError):  # it may be gone before it is seen to serve
            cluster.restart(2)
        log = cluster.log_path(2)
        wait_until(
            lambda: "is an old copy: it ends at commit" in log.read_text(), "the sentence", 60
        )
        cluster.stop_server(2)
        assert contents(mine) == before
        for number in range(WRITES - 50, WRITES):
            assert kv.get(f"k{number % 50}") == b"%d" % number
        kv.put("goes", b"on")
        # A copy of the newest state is another file: a warning, and it serves.
        mine.rename(tmp_path / "aside")  # (deleted, its inode might come again)
        copy(tmp_path / "newest", mine)
        cluster.restart(2)
        wait_until(
            lambda: "another file than the one that it wrote last" in log.read_text(),
            "the sentence",
            60,
        )
        wait_until(lambda: cluster.status()[1].reply is not None, "it serves", 60)
        kv.put("goes", b"further")
        cluster.stop_server(1)
        assert kv.get("goes") == b"further"
