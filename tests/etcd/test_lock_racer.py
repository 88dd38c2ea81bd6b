"""Many race for one lock, by all the ways there are to take it, while leaders are killed.

etcdctl, the Lock service and `paxon lock` share one layout, so they exclude each other.
python-etcd3, etcd3gw and aetcd have layouts of their own: each of them races against its like.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from paxon import LocalCluster
from tests.cluster.helpers import PAXON, environment
from tests.etcd.test_locks import Services
from tests.etcd.tools import binary, fetched
from tests.soak import SOAK, sized
from tests.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(sized(300, 3600))]

TURN = """#!/bin/sh
mkdir "$1/held" 2>/dev/null || echo "$2" >>"$1/overlaps"
echo "$2" >>"$1/turns"
rmdir "$1/held" 2>/dev/null || true
"""
"""What each does while it holds the lock: makes a directory, which only one can, and removes it."""
PATIENCE = sized(240, 3000)


class Race:
    """One lock, and what its holders write down."""

    def __init__(self, place: Path) -> None:
        self.place = place / "race"
        self.place.mkdir()
        self.turn = place / "turn"
        self.turn.write_text(TURN)
        self.turn.chmod(0o755)
        self.end = time.monotonic() + PATIENCE

    def command(self, name: str) -> list[str]:
        return [str(self.turn), str(self.place), name]

    def taken(self, name: str) -> int:
        """How many turns somebody has had."""
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "turns").read_text().split().count(name)
        return 0

    def until_taken(self, name: str, turns: int, attempt: Callable[[], object]) -> None:
        """Try until there were so many turns; what fails meanwhile is tried again."""
        while self.taken(name) < turns:
            assert time.monotonic() < self.end, f"{name} has had {self.taken(name)} turns"
            attempt()

    def run(self, racers: dict[str, Callable[[], object]], turns: int) -> None:
        with ThreadPoolExecutor(len(racers)) as pool:
            waiting = [
                pool.submit(self.until_taken, name, turns, attempt)
                for name, attempt in racers.items()
            ]
            for each in waiting:
                each.result()
        overlaps = self.place / "overlaps"
        assert not overlaps.exists(), overlaps.read_text()


def ran(command: list[str], variables: dict[str, str]) -> None:
    subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def leaders_killed(cluster: LocalCluster) -> Iterator[threading.Event]:
    """Kill the leader (SIGKILL) and bring it back, again and again; the event: it was done once."""
    ending, killed = threading.Event(), threading.Event()

    def kill() -> None:
        while not ending.is_set():
            leader = cluster.leader(60)
            cluster.kill(leader)
            cluster.restart(leader)
            killed.set()
            ending.wait(sized(2.0, 10.0))

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        try:
            yield killed
        finally:
            ending.set()
            killing.result()


def by_service(address: str, race: Race, name: str) -> Callable[[], None]:
    services = Services(address)

    def attempt() -> None:
        with contextlib.suppress(grpc.RpcError, grpc.FutureTimeoutError):
            held = services.call("Lock/Lock", name=b"race", timeout=PATIENCE)
            subprocess.run(race.command(name), check=True)
            while True:
                with contextlib.suppress(grpc.RpcError):
                    services.call("Lock/Unlock", key=held.key)
                    return

    return attempt


def test_nobody_holds_it_beside_another(tmp_path: Path) -> None:
    etcdctl = binary("etcdctl")
    race = Race(tmp_path)
    with LocalCluster(3, etcd=True) as cluster:
        address = cluster.etcd_address
        variables = environment(ETCDCTL_API="3")
        racers: dict[str, Callable[[], object]] = {}
        for n in range(sized(3, 17)):
            name = f"etcdctl{n}"
            command = [etcdctl, f"--endpoints={address}", "lock", "race", *race.command(name)]
            racers[name] = lambda command=command: ran(command, variables)  # type: ignore[misc]
        for n in range(sized(2, 16)):
            name = f"paxon{n}"
            servers = ",".join(cluster.addresses)
            command = [*PAXON, "lock", "race", "--cluster", servers, "--", *race.command(name)]
            racers[name] = lambda command=command: ran(command, variables)  # type: ignore[misc]
        for n in range(sized(3, 17)):
            racers[f"service{n}"] = by_service(address, race, f"service{n}")
        with leaders_killed(cluster) as killed:
            race.run(racers, sized(2, 30))
            wait_until(killed.is_set, "a leader was killed", 60)


CLIENTS = {
    "python-etcd3": ("old", "etcd3-0.12.0", """
import etcd3
client = etcd3.client(port=int(port), timeout=20)
def turns():
    with client.lock("race", ttl=30):
        turn()
"""),
    "etcd3gw": ("new", "etcd3gw-2.7.0", """
import time
from etcd3gw import client as etcd3gw
client = etcd3gw.Etcd3Client(port=int(port), timeout=20)
def turns():
    lock = client.lock("race", ttl=30)
    while not lock.acquire():
        time.sleep(0.01)
    turn()
    while not lock.release():
        pass
"""),
    "aetcd": ("new", "aetcd-1.0.0", """
import asyncio, aetcd
async def hold():
    async with aetcd.Client(port=int(port), timeout=20) as client:
        async with client.lock(b"race", ttl=30):
            turn()
def turns():
    asyncio.run(hold())
"""),
}  # fmt: skip
RACER = """
import subprocess, sys
port, *command = sys.argv[1:]
def turn():
    subprocess.run(command, check=True)
{}
turns()
"""


@pytest.mark.skipif(not SOAK, reason="only in make soak: each client's interpreter takes a second")
@pytest.mark.parametrize("client", CLIENTS)
def test_other_clients_race_among_themselves(client: str, tmp_path: Path) -> None:
    place, folder, program = CLIENTS[client]
    suites = fetched("suites", "suites")
    race = Race(tmp_path)
    script = tmp_path / "racer.py"
    script.write_text(RACER.format(program))
    python = str(suites / place / "bin" / "python")
    with LocalCluster(3, etcd=True) as cluster:
        port = cluster.etcd_address.rpartition(":")[2]
        variables = {**os.environ, "PYTHONPATH": str(suites / folder)}
        racers: dict[str, Callable[[], object]] = {}
        for n in range(10):
            command = [python, str(script), port, *race.command(f"{client}{n}")]
            racers[f"{client}{n}"] = lambda command=command: ran(command, variables)  # type: ignore[misc]
        with leaders_killed(cluster):
            race.run(racers, 5)
