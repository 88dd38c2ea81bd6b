"""What a directory says counts, not what a program asks for: clusters of one, three and five.

`make test` tries three servers, `make soak` all sizes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paxon.kvstore import LocalCluster
from tests.soak import sized

pytestmark = [pytest.mark.process, pytest.mark.slow]

SIZES = (1, 3, 5)


def value(directory: Path, servers: int, **settings: int) -> tuple[list[int], bytes | None]:
    """Which servers run, and the value that they hold, if as many as these are asked for."""
    with (
        LocalCluster(servers, directory, **settings) as cluster,  # type: ignore[arg-type]
        cluster.client(timeout=60) as client,
    ):
        return list(cluster.servers), client.get("key")


@pytest.mark.parametrize("servers", sized((3,), SIZES))
def test_neither_another_number_of_servers_nor_other_settings(servers: int, tmp_path: Path) -> None:
    with LocalCluster(servers, tmp_path) as cluster, cluster.client(timeout=60) as client:
        client.put("key", "value")
    members = list(range(1, servers + 1))
    for asked in sized((1,), SIZES):
        assert value(tmp_path, asked) == (members, b"value")
    assert value(tmp_path, servers, max_sessions=7) == (members, b"value")


@pytest.mark.parametrize("servers", sized((), (3, 5)))
def test_an_old_copy_stays_out(servers: int, tmp_path: Path) -> None:
    """(tests/cluster/copies/test_old_copies.py looks closer, at three.)"""
    directory, copy = tmp_path / "data", tmp_path / "copy"
    with LocalCluster(servers, directory) as cluster, cluster.client(timeout=60) as client:
        client.put("key", "old")
    shutil.copytree(directory / "server-1", copy)
    with LocalCluster(servers, directory) as cluster, cluster.client(timeout=60) as client:
        for _ in range(50):
            client.put("key", "new")
    shutil.rmtree(directory / "server-1")
    shutil.move(copy, directory / "server-1")
    with LocalCluster(servers, directory) as cluster, cluster.client(timeout=60) as client:
        assert client.get("key") == b"new"
        states = {row.server: row.state for row in cluster.status(10.0)}
    assert states.pop(1) == "failed"
    assert set(states.values()) == {"running"}
