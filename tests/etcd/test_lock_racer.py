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
from tests.soak import sized
from tests.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(sized(300, 3600))]

TURN = """#!/bin/sh
mkdir "$1/held" 2>/dev/null || echo "$2" >>"$1/overlaps"
echo "$2" >>"$1/turns"
rmdir "$1/held" 2>/dev/null || true
"""
"""What each does while it holds the lock: makes a directory, which only one can, and removes it."""
TTL = "--ttl=60"
"""More than a busy machine keeps a renewal waiting: etcdctl 3.4 takes the lock although its lease
has ended while it waited, from a real etcd too."""
PATIENCE = sized(240, 3000)


Racers = dict[str, Callable[[], object]]
"""By their names, how each tries to take a turn."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, etcd=True) as cluster:
        yield cluster


class Race:
    """One lock, and what its holders write down."""

    def __init__(self, place: Path, name: str = "race") -> None:
        self.place = place / name
        self.place.mkdir()
        self.turn = self.place / "turn"
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
            assert time.monotonic() < self.end, (
                f"{name} has had {self.taken(name)} turns; {self.said()}"
            )
            attempt()

    def said(self) -> str:
        """What racers complained of at last."""
        path = self.place / "errors"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def run(self, racers: Racers, turns: int) -> None:
        with ThreadPoolExecutor(len(racers)) as pool:
            waiting = [
                pool.submit(self.until_taken, name, turns, attempt)
                for name, attempt in racers.items()
            ]
            for each in waiting:
                each.result()
        overlaps = self.place / "overlaps"
        assert not overlaps.exists(), overlaps.read_text()


def ran(race: Race, command: list[str], variables: dict[str, str]) -> None:
    with (race.place / "errors").open("ab") as errors:
        subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors, timeout=PATIENCE, check=False,
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


def test_nobody_holds_it_beside_another(cluster: LocalCluster, tmp_path: Path) -> None:
    etcdctl = binary("etcdctl")
    race = Race(tmp_path)
    address = cluster.etcd_address
    variables = environment(ETCDCTL_API="3")
    racers: Racers = {}
    for n in range(sized(3, 17)):
        name = f"etcdctl{n}"
        command = [etcdctl, f"--endpoints={address}", "lock", "race", TTL, *race.command(name)]
        racers[name] = lambda command=command: ran(race, command, variables)  # type: ignore[misc]
    for n in range(sized(2, 16)):
        name = f"paxon{n}"
        servers = ",".join(cluster.addresses)
        command = [*PAXON, "lock", "race", TTL, "--cluster", servers, "--", *race.command(name)]
        racers[name] = lambda command=command: ran(race, command, variables)  # type: ignore[misc]
    for n in range(sized(3, 17)):
        racers[f"service{n}"] = by_service(address, race, f"service{n}")
    with leaders_killed(cluster) as killed:
        race.run(racers, sized(2, 30))
        wait_until(killed.is_set, "a leader was killed", 60)


CLIENTS = {
    "python-etcd3": ("old", "etcd3-0.12.0", """
import etcd3
client = etcd3.client(port=int(port), timeout=20)
def take_turn():
    with client.lock(name, ttl=30):
        turn()
"""),
    "etcd3gw": ("new", "etcd3gw-2.7.0", """
import time
import etcd3gw
client = etcd3gw.client(port=int(port), timeout=20)
def take_turn():
    lock = client.lock(name, ttl=30)
    while not lock.acquire():
        time.sleep(0.05)
    turn()
    while not lock.release():
        pass
"""),
    "aetcd": ("new", "aetcd-1.0.0", """
import asyncio, aetcd
async def hold():
    async with aetcd.Client(port=int(port), timeout=20) as client:
        async with client.lock(name.encode(), ttl=30):
            turn()
def take_turn():
    asyncio.run(hold())
"""),
}  # fmt: skip
"""Environment, folder, and how each takes a turn."""
RACER = """
import subprocess, sys
name, turns, port, *command = sys.argv[1:]
def turn():
    subprocess.run(command, check=True)
{}
for _ in range(int(turns)):
    take_turn()
"""


def racers_of(client: str, count: int, turns: int, race: Race, port: str) -> Racers:
    """So many of one client, each a process that is begun again until it has had its turns."""
    place, folder, program = CLIENTS[client]
    suites = fetched("suites", "suites")
    script = race.place / "racer.py"
    script.write_text(RACER.format(program))
    python = str(suites / place / "bin" / "python")
    variables = {**os.environ, "PYTHONPATH": str(suites / folder)}
    racers: Racers = {}
    for n in range(count):
        command = [python, str(script), client, str(turns), port, *race.command(f"{client}{n}")]
        racers[f"{client}{n}"] = lambda command=command: ran(race, command, variables)  # type: ignore[misc]
    return racers


def test_other_clients_race_among_themselves(cluster: LocalCluster, tmp_path: Path) -> None:
    port, turns = cluster.etcd_address.rpartition(":")[2], sized(2, 5)
    races = {client: Race(tmp_path, client) for client in CLIENTS}
    racers = {
        client: racers_of(client, sized(2, 10), turns, race, port) for client, race in races.items()
    }
    with leaders_killed(cluster) as killed, ThreadPoolExecutor(len(races)) as pool:
        running = [pool.submit(races[client].run, racers[client], turns) for client in CLIENTS]
        for each in running:
            each.result()
        wait_until(killed.is_set, "a leader was killed", 60)
