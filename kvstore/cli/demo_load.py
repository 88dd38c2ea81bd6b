"""The load of `paxon demo`: threads that write and read, and remember all that was acknowledged."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence

from paxon.kvstore.client.client import Client
from paxon.kvstore.errors import PaxonError

__all__ = ["Worker", "Load", "missing_writes", "outage", "sparkline"]

_PAGE = 5_000
"""Keys fetched by one scan."""


class Worker(threading.Thread):
    """One client: puts a new key, and every few turns appends to its journal and reads back."""

    def __init__(self, number: int, make_client: Callable[[], Client]) -> None:
        super().__init__(name=f"demo-client-{number}", daemon=True)
        self.number = number
        self.error: PaxonError | None = None
        self.acknowledged: dict[str, bytes] = {}
        """Every write that the cluster has acknowledged."""
        self.journal = b""
        """What the journal holds if each append took effect exactly once."""
        self.times: list[float] = []
        """When each acknowledgement came, on the monotonic clock."""
        self.reads = 0
        self._make_client = make_client
        self._ending = threading.Event()

    def run(self) -> None:
        turn = 0
        try:
            with self._make_client() as client:
                client.put(f"journal/{self.number}", b"")  # (its directory may have seen a demo)
                while not self._ending.is_set():
                    turn += 1
                    self._turn(client, turn)
        except PaxonError as error:
            self.error = error

    def _turn(self, client: Client, turn: int) -> None:
        key, value = f"load/{self.number}/{turn:08}", f"value {turn} of {self.number}".encode()
        client.put(key, value)
        self.times.append(time.monotonic())
        self.acknowledged[key] = value
        if turn % 8 == 0:
            line = b"%d;" % turn
            client.append(f"journal/{self.number}", line)
            self.times.append(time.monotonic())
            self.journal += line
            if client.get(key) != value:
                raise PaxonError(f"a read of {key} did not give what had just been written")
            self.reads += 1

    def end(self) -> None:
        """Finish the turn under way and no other."""
        self._ending.set()


class Load:
    """Several workers, each with a client of its own."""

    def __init__(self, workers: int, make_client: Callable[[], Client]) -> None:
        self.workers = [Worker(number, make_client) for number in range(1, workers + 1)]
        self.started_at = 0.0
        self.ended_at = 0.0

    def start(self) -> None:
        """Start all workers."""
        self.started_at = time.monotonic()
        for worker in self.workers:
            worker.start()

    def end(self) -> None:
        """Stop all workers and wait for what they have under way. Raises what stopped one early."""
        for worker in self.workers:
            worker.end()
        for worker in self.workers:
            if worker.ident is not None:  # it had been started
                worker.join()
        self.ended_at = time.monotonic()
        self.check()

    def check(self) -> None:
        """Raise what stopped a worker early, if anything did."""
        for worker in self.workers:
            if worker.error is not None:
                raise worker.error

    @property
    def writes(self) -> int:
        """Acknowledged so far."""
        return sum(len(worker.times) for worker in self.workers)

    @property
    def reads(self) -> int:
        """Answered so far."""
        return sum(worker.reads for worker in self.workers)

    def times(self) -> list[float]:
        """When each write was acknowledged, in order."""
        return sorted(moment for worker in self.workers for moment in list(worker.times))


def outage(times: Sequence[float], killed_at: float) -> tuple[float, float] | None:
    """The longest pause between acknowledgements that ends after the kill: its start and end.

    An acknowledgement that was on its way when the leader died may still arrive just after; so the
    first one after the kill would flatter, and the end of the longest pause does not.
    """
    longest: tuple[float, float] | None = None
    for earlier, later in itertools.pairwise(times):
        if later <= killed_at:
            continue
        if longest is None or later - earlier > longest[1] - longest[0]:
            longest = (earlier, later)
    return longest


def missing_writes(load: Load, client: Client) -> tuple[int, list[str]]:
    """Compare the store with all that was acknowledged: writes found, and what is wrong.

    A write that was not acknowledged may be in the store; one that was acknowledged has to be.
    """
    found = 0
    wrong: list[str] = []
    for worker in load.workers:
        stored = _scan_all(client, f"load/{worker.number}/")
        for key, value in worker.acknowledged.items():
            if stored.get(key) == value:
                found += 1
            else:
                wrong.append(f"{key} is {stored.get(key)!r} instead of {value!r}")
        journal = client.get(f"journal/{worker.number}") or b""
        if journal == worker.journal:
            found += worker.journal.count(b";")
        else:
            wrong.append(
                f"journal/{worker.number} does not hold each append exactly once, in order"
            )
    return found, wrong


def _scan_all(client: Client, prefix: str) -> dict[str, bytes]:
    """All keys with a prefix, a page at a time."""
    stored: dict[str, bytes] = {}
    after = ""
    while True:
        page = client.scan(prefix, limit=_PAGE, start_after=after)
        stored.update(page)
        if len(page) < _PAGE:
            return stored
        after = page[-1][0]


_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " ..::##@@"


def sparkline(
    times: Sequence[float], start: float, end: float, width: int, *, ascii_only: bool
) -> str:
    """Acknowledgements over time as a row of bars; an empty place is a time without any."""
    counts = [0] * width
    for moment in times:
        place = int((moment - start) / (end - start) * width)
        counts[min(max(place, 0), width - 1)] += 1
    top = max(counts) or 1
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    return "".join(
        blocks[0] if count == 0 else blocks[max(1, round(count / top * (len(blocks) - 1)))]
        for count in counts
    )
