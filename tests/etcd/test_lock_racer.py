"""Many race for one lock, by all the ways there are to take it, while leaders are killed.

etcdctl, the Lock service and `paxon lock` share one layout, so they exclude each other.
python-etcd3, etcd3gw and aetcd have layouts of their own: each of them races against its like.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from paxon import LocalCluster
from tests.cluster.helpers import PAXON, environment
from tests.etcd.racing import (
    FAULT,
    OUTLIVED,
    UNDER_NO_LEASE,
    Book,
    Met,
    Race,
    Racers,
    booked,
    renewals_noted,
    verdict,
)
from tests.etcd.test_locks import Services, lease, revoke
from tests.etcd.tools import Grpc, binary, fetched
from tests.soak import sized
from tests.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(sized(300, 3600))]

PATIENCE = sized(240, 3000)
TTLS = sized((60,), (60, 2))
"""Seconds, of etcdctl's leases. 60 is more than a busy machine keeps a renewal waiting. With 2,
some end while leaders are killed, and etcdctl 3.4 enters without one then (test_locks.py)."""


def test_what_is_said_of_two_that_met() -> None:
    book = Book(60, {1: 100.0, 2: 100.0})
    book.made = {"r/1": 10, "r/2": 20}
    alive = frozenset(book.made)

    def said(own: str, other: str, there: frozenset[str]) -> str:
        return verdict(Met("etcdctl0", own, other, there), book)

    assert said("r/2", "r/1", alive) == FAULT
    assert said("r/1", "r/2", alive) == FAULT
    book.gone = {"r/1": 159.0, "r/2": 160.0}  # the first ended before its time
    assert said("r/1", "r/2", frozenset({"r/2"})) == FAULT
    assert said("r/2", "r/1", frozenset({"r/2"})) == FAULT
    assert said("r/2", "r/1", frozenset({"r/1"})) == FAULT, "the one before it was there"
    book.gone = {"r/1": 160.0, "r/2": 160.0}
    assert said("r/1", "r/2", frozenset({"r/2"})) == UNDER_NO_LEASE
    assert said("r/2", "r/1", frozenset({"r/2"})) == OUTLIVED
    assert said("r/3", "r/4", frozenset()) == FAULT, "nothing is known of either"


@pytest.fixture(scope="module")
def renewed() -> Iterator[dict[int, float]]:
    with renewals_noted() as renewed:
        yield renewed


@pytest.fixture(scope="module")
def cluster(renewed: dict[int, float]) -> Iterator[LocalCluster]:
    with LocalCluster(3, etcd=True) as cluster:
        yield cluster


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
    services, client = Services(address), Grpc(address)

    def attempt() -> None:
        with contextlib.suppress(grpc.RpcError, grpc.FutureTimeoutError):
            number = lease(client, PATIENCE)  # (nobody renews it)
            try:
                waiting = services.begin(
                    "Lock/Lock", PATIENCE, name=race.name.encode(), lease=number
                )
                variables = {**os.environ, "RACER_KEY": waiting(PATIENCE).key.decode()}
                subprocess.run(race.command(name), env=variables, check=True)
            finally:
                end(client, number)

    return attempt


def end(client: Grpc, number: int) -> None:
    """Revoke a lease, and with it the lock."""
    while True:
        try:
            revoke(client, number)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                continue
        return


@pytest.mark.parametrize("ttl", TTLS)
def test_nobody_holds_it_beside_another(
    cluster: LocalCluster, renewed: dict[int, float], tmp_path: Path, ttl: int
) -> None:
    etcdctl = binary("etcdctl")
    address = cluster.etcd_address
    name = f"race-{ttl}"
    ask = [etcdctl, f"--endpoints={address}", "--command-timeout=60s"]
    look = f"ETCDCTL_API=3 {shlex.join([*ask, 'get', f'{name}/', '--prefix', '--keys-only'])}"
    race = Race(tmp_path, name, PATIENCE, look)
    variables = environment(ETCDCTL_API="3")
    racers: Racers = {}
    for n in range(sized(3, 17)):
        own = race.command(f"etcdctl{n}")
        command = [*ask, "lock", name, f"--ttl={ttl}", *own]
        racers[f"etcdctl{n}"] = lambda command=command: ran(race, command, variables)  # type: ignore[misc]
    for n in range(sized(2, 16)):
        own = race.command(f"paxon{n}")
        servers = ",".join(cluster.addresses)
        command = [*PAXON, "lock", name, "--ttl=60", "--cluster", servers, "--", *own]
        racers[f"paxon{n}"] = lambda command=command: ran(race, command, variables)  # type: ignore[misc]
    for n in range(sized(3, 17)):
        racers[f"service{n}"] = by_service(address, race, f"service{n}")
    book = Book(ttl, renewed)
    with booked(cluster.addresses, name, book), leaders_killed(cluster) as killed:
        race.run(racers, sized(2, 30))
        wait_until(killed.is_set, "a leader was killed", 60)
    verdicts = [(verdict(met, book), met) for met in race.met()]
    print(f"with leases of {ttl} s:", Counter(said for said, _ in verdicts) or "nobody met another")
    assert not [met for said, met in verdicts if said == FAULT]


CLIENTS = {
    "python-etcd3": ("old", "etcd3-0.12.0", """
import etcd3
client = etcd3.client(port=int(port), timeout=20)
def take_turn():
    lock = client.lock(name, ttl=60)
    while not lock.acquire():  # (`with` would go on without it after ten seconds)
        pass
    turn()
    lock.release()
"""),
    "etcd3gw": ("new", "etcd3gw-2.7.0", """
import time
import etcd3gw
client = etcd3gw.client(port=int(port), timeout=20)
def take_turn():
    lock = client.lock(name, ttl=60)
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
        lock = client.lock(name.encode(), ttl=60)
        while not await lock.acquire():  # (`async with`: the same)
            pass
        turn()
        await lock.release()
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
    races = {client: Race(tmp_path, client, PATIENCE) for client in CLIENTS}
    racers = {
        client: racers_of(client, sized(2, 10), turns, race, port) for client, race in races.items()
    }
    with leaders_killed(cluster) as killed, ThreadPoolExecutor(len(races)) as pool:
        running = [pool.submit(races[client].run, racers[client], turns) for client in CLIENTS]
        for each in running:
            each.result()
        wait_until(killed.is_set, "a leader was killed", 60)
    for race in races.values():
        assert not race.met()
