"""A second process with a live server's id: it never takes the place of the real one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import PAXON, environment, wait_until
from tests.ports import own_ports
from tests.waiting import stall_meter

pytestmark = pytest.mark.process


def cluster_file(cluster: LocalCluster, target: Path, *, other_ports: bool) -> Path:
    """The cluster's file, with an empty directory for server 2 and perhaps other ports for it."""
    text = (cluster.directory / "cluster.toml").read_text()
    text = text.replace(str(cluster.directory / "server-2"), str(target.parent / "impostor"))
    if other_ports:
        for address in (cluster.addresses[1], cluster.peer_addresses[1]):
            old, (new,) = address.rpartition(":")[2], own_ports(1)
            text = text.replace(old, str(new))
    target.write_text(text, encoding="utf-8")
    return target


@pytest.mark.parametrize("rejoin", [False, True], ids=["fresh", "rejoin"])
@pytest.mark.parametrize("other_ports", [False, True], ids=["same ports", "other ports"])
def test_the_real_one_and_its_cluster_go_on(
    tmp_path: Path, other_ports: bool, rejoin: bool
) -> None:
    directory, least, most = tmp_path / "real", 3.0, 4.0  # (seconds, for busy machines)
    with (
        LocalCluster(
            3, directory, election_timeout_min=least, election_timeout_max=most
        ) as cluster,
        cluster.client(timeout=60) as kv,
    ):
        kv.put("a", b"1")
        stood = stall_meter()
        file = cluster_file(cluster, tmp_path / "cluster.toml", other_ports=other_ports)
        log = tmp_path / "second.log"
        more = ["--rejoin"] if rejoin else []
        with log.open("wb") as output:
            second = subprocess.Popen(
                [*PAXON, "server", "--cluster", str(file), "--id", "2", *more],
                stdout=output,
                stderr=output,
                env=environment(),
            )
        try:
            # It ends with a sentence, or waits and says for whom.
            wait_until(
                lambda: second.poll() is not None or "waits for" in log.read_text(), "a word", 60
            )
            for number in range(100):
                kv.put(f"k{number}", b"%d" % number)
            text = log.read_text()
            assert "Traceback" not in text
            if second.poll() is not None:
                assert second.returncode != 0, text
            if other_ports:
                assert "or take another process for server 2, at another address than" in text
            if not other_ports:
                assert second.wait(60) != 0
                assert "port" in text or "address" in text, text
            replies = [status.reply for status in cluster.status(60.0)]
            assert all(reply is not None and reply.part == "voter" for reply in replies)
            leaderships = sum(reply.counters["leaderships"] for reply in replies if reply)
            assert leaderships <= 2 or stood() > least / 2
        finally:
            second.kill()
            second.wait()
        cluster.kill(3)  # the real one still counts for a majority
        kv.put("b", b"2")
        assert kv.get("k99") == b"99"
