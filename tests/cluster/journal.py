"""Clients that append to shared journals under faults, and a check of what they saw.

An append answers with the new length, so an acknowledged append names the very place where its
token has to stand in the end. Together with the times at which operations began and ended this
decides linearizability of append-only journals in linear time, with no search.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from paxon.kvstore import Client, RequestTimeout
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import wait_until

__all__ = ["Operation", "JournalLoad", "check_journal"]

JOURNALS = 4


@dataclass(slots=True)
class Operation:
    """An append (with a token) or a read, and how it ended."""

    journal: int
    began: float
    token: bytes = b""
    """Unique; empty for a read."""
    ended: float = float("inf")
    length: int = -1
    """Of the journal just after the append, or as read; -1 while unknown."""
    value: bytes = b""
    """What a read saw."""


@dataclass(slots=True)
class JournalLoad:
    """Some client threads, each with a client of its own; use it in a `with` statement."""

    cluster: LocalCluster
    clients: int = 4
    timeout: float = 20.0
    operations: list[Operation] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(self.clients):
            thread = threading.Thread(target=self._work, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def acknowledged(self) -> int:
        """Appends that were acknowledged so far."""
        return sum(1 for operation in list(self.operations) if operation.length >= 0)

    def wait_for_more(self, count: int) -> None:
        """Wait until so many operations more have been answered."""
        target = self.acknowledged() + count
        wait_until(
            lambda: self.acknowledged() >= target or bool(self.errors), f"{count} operations more"
        )
        assert not self.errors, self.errors

    def _work(self, number: int) -> None:
        try:
            with self.cluster.client(timeout=self.timeout) as client:
                turn = 0
                while not self._ending.is_set():
                    turn += 1
                    self._turn(client, number, turn)
        except BaseException as error:
            self.errors.append(error)

    def _turn(self, client: Client, number: int, turn: int) -> None:
        journal = turn % JOURNALS
        operation = Operation(journal, time.monotonic())
        if turn % 5:
            operation.token = f"{number}.{turn};".encode()
        self.operations.append(operation)
        try:
            if operation.token:
                operation.length = client.append(f"journal/{journal}", operation.token)
            else:
                operation.value = client.get(f"journal/{journal}") or b""
                operation.length = len(operation.value)
        except RequestTimeout:
            return  # the outcome stays unknown, and the check allows for either
        operation.ended = time.monotonic()

    def check(self, expect_all_known: bool = True) -> int:
        """Check all journals against what the clients saw; how many appends were acknowledged."""
        assert not self.errors, self.errors
        with self.cluster.client(timeout=self.timeout) as client:
            for journal in range(JOURNALS):
                mine = [each for each in self.operations if each.journal == journal]
                check_journal(mine, client.get(f"journal/{journal}") or b"")
        if expect_all_known:
            assert all(operation.length >= 0 for operation in self.operations)
        return sum(1 for each in self.operations if each.token and each.length >= 0)


def check_journal(operations: Sequence[Operation], final: bytes) -> None:
    """Fail unless the operations on one journal, which holds `final` now, are linearizable."""
    tokens = final.split(b";")
    assert len(tokens) == len(set(tokens)), "an append took effect twice"
    for operation in operations:
        if operation.length < 0:
            continue
        if operation.token:
            place = final[operation.length - len(operation.token) : operation.length]
            assert place == operation.token, f"{operation} is lost or elsewhere"
        else:
            assert final.startswith(operation.value), f"{operation} saw what never was"
    # Real time: whatever began after an operation had ended sees at least what that one saw.
    known = [operation for operation in operations if operation.length >= 0]
    by_end = sorted(known, key=lambda operation: operation.ended)
    seen = 0
    index = 0
    for operation in sorted(known, key=lambda operation: operation.began):
        while index < len(by_end) and by_end[index].ended < operation.began:
            seen = max(seen, by_end[index].length)
            index += 1
        least = seen + len(operation.token)
        assert operation.length >= least, f"{operation} did not see what came before ({least})"
