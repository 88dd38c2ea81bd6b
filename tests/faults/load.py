"""Clients that work while faults happen, and write down all that they asked and were told."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from paxon.kvstore import Client, RequestTimeout
from tests.linearizability import (
    Operation,
    Recorder,
    Verdict,
    check,
    dump_history,
    load_history,
)
from tests.waiting import running_seconds, wait_until

__all__ = ["Load", "Verified"]

Connect = Callable[[int], Client]
"""Makes the client of a number."""

LEDGER_BYTES = 4096
"""A ledger is begun anew at about this length: reading it back must stay cheap."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a history was found to be."""

    operations: int
    """Operations in the history, those with unknown outcome included."""
    acknowledged: int
    """Writes that were acknowledged."""
    unknown: int
    """Writes whose outcome no client learned."""
    lost: int
    """Acknowledged ledger entries that are not there in the end."""
    longest_wait: float
    """Seconds that the slowest answered operation took, those left out in which this machine stood.
    """


@dataclass(slots=True)
class _Ledger:
    """A key that one client alone appends to: what was acknowledged has to be there in the end."""

    key: str
    written: list[bytes] = field(default_factory=list)


class Load:
    """Client threads, each with a client of its own; use it in a `with` statement.

    Half of what they do is on few keys that all share, so that what they see depends on each other;
    the rest are appends of unique entries to ledgers, one a client. Readers only read: a write that
    waits for a majority would keep them from asking whoever answers too easily.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        clients: int = 4,
        readers: Collection[int] = (),
        keys: int = 6,
        seed: int = 1,
        pause: float = 0.002,
        prefix: str = "",
    ) -> None:
        """Describe the load; nothing runs yet.

        Args:
            connect: makes the client of a number, in that client's own thread.
            clients: how many.
            readers: the numbers of those that only read.
            keys: how many keys they share.
            seed: of what they do, but not of when.
            pause: mean seconds between a client's operations, so that histories stay checkable.
            prefix: of all keys.
        """
        self._connect = connect
        self._clients = clients
        self._readers = frozenset(readers)
        self._keys = [f"{prefix}shared/{number}" for number in range(keys)]
        self._seed = seed
        self._pause = pause
        self.recorder = Recorder(time.monotonic)
        self.errors: list[BaseException] = []
        self.answered = [0] * clients
        """Operations that each client has had answered."""
        self.waits: list[tuple[float, float]] = []
        """When each answered operation began, and the seconds that this machine ran meanwhile."""
        self.timeouts = 0
        self._ledgers = [[_Ledger(f"{prefix}ledger/{n}/0")] for n in range(clients)]
        """Of each client, the one that it writes to now last."""
        self._seen: list[dict[str, bytes | None]] = [{} for _ in range(clients)]
        """What each client last saw of each key."""
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_key(self, key: str) -> None:
        """A key that the test itself writes to, with `recorder`, is read in the end, too."""
        self._keys.append(key)

    def __enter__(self) -> Self:
        for number in range(self._clients):
            thread = threading.Thread(target=self._work, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client finish what it is waiting for, and end."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    # --- for the test, meanwhile -------------------------------------------------------------

    def wait_for_more(
        self, count: int, *, clients: Sequence[int] | None = None, seconds: float = 30.0
    ) -> None:
        """Wait until these clients (all, by default) together got so many answers more."""
        chosen = range(self._clients) if clients is None else clients

        def total() -> int:
            return sum(self.answered[number] for number in chosen)

        target = total() + count
        wait_until(lambda: total() >= target or bool(self.errors), f"{count} answers more", seconds)
        assert not self.errors, self.errors

    def run_for(self, seconds: float) -> None:
        """Let the clients work for so long."""
        if self._ending.wait(seconds):
            raise AssertionError("the load has ended")
        assert not self.errors, self.errors

    def longest_wait(self, since: float = float("-inf")) -> float:
        """Seconds that the slowest operation took of those that began after `since`."""
        return max((took for began, took in list(self.waits) if began >= since), default=0.0)

    # --- afterwards --------------------------------------------------------------------------

    def verify(self, client: Client, file: Path, *, seconds: float = 60.0) -> Verified:
        """Read everything once more and judge the history, by way of its file.

        Fails with an explanation if it is not linearizable, if that cannot be decided in `seconds`,
        or if an acknowledged ledger entry is gone.
        """
        self.stop()
        assert not self.errors, self.errors
        final = {key: self._read(client, key) for key in self._keys}
        lost: list[bytes] = []
        for ledger in itertools.chain(*self._ledgers):
            final[ledger.key] = self._read(client, ledger.key)
            there = set((final[ledger.key] or b"").split(b";"))
            lost += [entry for entry in ledger.written if entry not in there]
        assert any(value is not None for value in final.values()), "nothing was written at all"
        with file.open("w", encoding="utf-8") as out:
            dump_history(self.recorder.operations(), out)
        with file.open(encoding="utf-8") as back:
            operations = load_history(back)
        assert not lost, f"acknowledged and lost: {lost[:5]} (history: {file})"
        result = check(operations, seconds=seconds)
        assert result.verdict is Verdict.OK, f"{result.explanation} (history: {file})"
        writes = [each for each in operations if each.kind not in ("get", "scan")]
        return Verified(
            operations=len(operations),
            acknowledged=sum(1 for each in writes if each.returned is not None),
            unknown=sum(1 for each in writes if each.returned is None),
            lost=len(lost),
            longest_wait=self.longest_wait(),
        )

    def _read(self, client: Client, key: str) -> bytes | None:
        operation = self.recorder.call(-1, "get", key)
        value = client.get(key)
        self.recorder.ok(operation, value)
        return value

    # --- a client ----------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        draw = random.Random(self._seed * 1000 + number)
        try:
            with self._connect(number) as client:
                turn = 0
                while not self._ending.is_set():
                    turn += 1
                    began, ran = time.monotonic(), running_seconds()
                    if self._turn(client, draw, number, turn):
                        self.waits.append((began, running_seconds() - ran))
                        self.answered[number] += 1
                    else:
                        self.timeouts += 1
                    if self._pause:
                        self._ending.wait(draw.uniform(0.0, 2 * self._pause))
        except BaseException as error:
            self.errors.append(error)

    def _turn(self, client: Client, draw: random.Random, number: int, turn: int) -> bool:
        """One operation; whether it was answered."""
        operation, call = self._draw(client, draw, number, turn)
        try:
            result = call()
        except RequestTimeout as error:
            if operation.kind == "get" or not error.sent:
                self.recorder.failed(operation)
            return False
        self.recorder.ok(operation, result)
        ledger = self._ledgers[number][-1]
        if operation.key == ledger.key and operation.value is not None:
            ledger.written.append(operation.value.rstrip(b";"))
            if isinstance(result, int) and result > LEDGER_BYTES:
                self._ledgers[number].append(self._next_ledger(ledger))
        elif operation.kind == "get" and not isinstance(result, int):
            self._seen[number][operation.key] = result
        return True

    def _next_ledger(self, ledger: _Ledger) -> _Ledger:
        stem, _, count = ledger.key.rpartition("/")
        return _Ledger(f"{stem}/{int(count) + 1}")

    def _draw(
        self, client: Client, draw: random.Random, number: int, turn: int
    ) -> tuple[Operation, Callable[[], bytes | bool | int | None]]:
        """What to do next: the record of it, and the call that does it."""
        call = self.recorder.call
        key = draw.choice(self._keys)
        value = f"{number}.{turn}".encode()
        kind = draw.choices(
            ("ledger", "get", "put", "append", "cas", "delete"), (40, 28, 12, 8, 8, 4)
        )[0]
        if number in self._readers:
            kind = "get"
        if kind == "ledger":
            ledger = self._ledgers[number][-1].key
            entry = value + b";"
            return call(number, "append", ledger, entry), lambda: client.append(ledger, entry)
        if kind == "get":
            return call(number, "get", key), lambda: client.get(key)
        if kind == "put":
            return call(number, "put", key, value), lambda: client.put(key, value)
        if kind == "append":
            more = b"+" + value
            return call(number, "append", key, more), lambda: client.append(key, more)
        if kind == "delete":
            return call(number, "delete", key), lambda: client.delete(key)
        expected = self._seen[number].get(key)
        return (
            call(number, "cas", key, value, expected=expected),
            lambda: client.compare_and_set(key, expected, value),
        )
