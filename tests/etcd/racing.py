"""A race for one lock, what its racers leave behind, and what is to be said of two that met."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxon import Client
from paxon.kvstore.client.watches.events import Event
from paxon.kvstore.etcd.calls import Call
from paxon.kvstore.etcd.lease import LeaseService

__all__ = [
    "FAULT",
    "OUTLIVED",
    "UNDER_NO_LEASE",
    "Book",
    "Met",
    "Race",
    "Racers",
    "booked",
    "renewals_noted",
    "verdict",
]

Racers = dict[str, Callable[[], object]]
"""By their names, how each tries to take a turn."""
TURN = """#!/bin/sh
place=$1 name=$2 alone=
leave() {
  [ -z "$alone" ] || mv -f "$place/held" "$place/last"
}
trap 'leave; exit 1' TERM
key=${ETCD_LOCK_KEY:-${PAXON_LOCK_KEY:-${RACER_KEY:-none}}}
if ln -s "$key" "$place/held" 2>/dev/null; then
  alone=yes
else
  other=$(readlink "$place/held" || readlink "$place/last" || echo unknown)
  until there=$({look}); do sleep 0.1; done
  echo "$name" "$key" "$other" $there >>"$place/overlaps"
fi
echo "$name" >>"$place/turns"
leave
"""
"""What each does while it holds the lock: makes a link to its key, which only one can, and takes it
away. Who finds that of another asks the cluster whose keys are there, and writes it all down."""
FAULT = "FAULT"
UNDER_NO_LEASE = "entered although its lease had ended"
OUTLIVED = "met one whose lease had ended"


class Met(msgspec.Struct, frozen=True):
    """Somebody entered while another was there."""

    name: str
    key: str
    other: str
    """The key of who was there, or has just left."""
    there: frozenset[str]
    """Whose keys there are."""


class Book:
    """What became of the keys, as a watch tells, and when leases were renewed last."""

    def __init__(self, ttl: float, renewed: dict[int, float] | None = None) -> None:
        """`renewed`: by the leases' ids, when the last renewal was asked that was granted."""
        self.ttl = ttl
        self.renewed = {} if renewed is None else renewed
        self.made: dict[str, int] = {}
        """The revision that made each key."""
        self.gone: dict[str, float] = {}
        """When it was told that a key is no more, by the monotonic clock."""

    def tell(self, event: Event, now: float) -> None:
        if event.kind == "delete":
            self.gone[event.key] = now
        else:
            self.made[event.key] = event.created

    def lapsed(self, key: str) -> bool:
        """Whether a key has gone, and no earlier than its lease may end."""
        renewed, gone = self.renewed.get(lease_of(key)), self.gone.get(key)
        return renewed is not None and gone is not None and gone - renewed >= self.ttl


def lease_of(key: str) -> int:
    """The lease with which a key goes; 0: it is none of a contender."""
    try:
        return int(key.rpartition("/")[2], 16)
    except ValueError:
        return 0


def verdict(met: Met, book: Book) -> str:
    """Whose fault it is: the cluster's, or of a client that does not look after its lease."""
    made, other = book.made.get(met.key, 0), book.made.get(met.other, 0)
    if met.other in met.there and other < made:
        return FAULT  # the one before it is there
    if met.key not in met.there and book.lapsed(met.key):
        return UNDER_NO_LEASE
    if met.other not in met.there and book.lapsed(met.other):
        return OUTLIVED
    return FAULT


class Race:
    """One lock, and what its holders write down."""

    def __init__(self, place: Path, name: str, patience: float, look: str = "true") -> None:
        """`look`: a command that says which keys there are."""
        self.name = name
        self.place = place / name
        self.place.mkdir()
        self.turn = self.place / "turn"
        self.turn.write_text(TURN.replace("{look}", look))
        self.turn.chmod(0o755)
        self.patience = patience
        self.end = time.monotonic() + patience

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

    def met(self) -> list[Met]:
        """Who met another."""
        path = self.place / "overlaps"
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            name, key, other, *there = line.split()
            found.append(Met(name, key, other, frozenset(there)))
        return found


@contextlib.contextmanager
def renewals_noted() -> Iterator[dict[int, float]]:
    """When each lease was renewed last through gateways of this process that open from now on.

    When the renewal was asked for, by the monotonic clock: the lease lives on from then or later.
    """
    renewed: dict[int, float] = {}
    grant, keep_alive = LeaseService.grant, LeaseService.keep_alive

    class Noting:
        def __init__(self, call: Call) -> None:
            self._call = call
            self._asked: dict[int, float] = {}

        @property
        def waiting(self) -> int:
            return self._call.waiting

        async def receive(self) -> Any:
            request = await self._call.receive()
            if request is not None:
                self._asked[request.ID] = time.monotonic()
            return request

        async def send(self, answer: Any) -> None:
            if answer.TTL:
                renewed[answer.ID] = self._asked[answer.ID]
            await self._call.send(answer)

    async def noted(self: LeaseService, call: Call) -> None:
        await keep_alive(self, Noting(call))

    async def granted(self: LeaseService, request: Any, timeout: float) -> Any:
        asked = time.monotonic()
        answer = await grant(self, request, timeout)
        renewed[answer.ID] = asked
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeaseService, "keep_alive", noted)
        patch.setattr(LeaseService, "grant", granted)
        yield renewed


@contextlib.contextmanager
def booked(addresses: list[str], name: str, book: Book) -> Iterator[None]:
    """Write into a book what becomes of a lock's keys meanwhile."""
    with Client(addresses, timeout=60) as kv:
        watch = kv.watch(prefix=f"{name}/")
        telling = watch.call(lambda event: book.tell(event, time.monotonic()))
        try:
            yield
            last = kv.range(prefix=f"{name}/").revision
            # (Until it has told all: what is asked of the book needs the last deletion too.)
            while watch.revision < last and telling.is_alive():
                kv.put(f"{name}/end", "")
                time.sleep(0.05)
        finally:
            watch.close()
            telling.join(60)
