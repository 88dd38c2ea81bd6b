"""Reads that wait until the leader knows that it still leads (rule 9)."""

from __future__ import annotations

from collections import deque

from paxon.actors.environment import ClientToken
from paxon.actors.limits.allowances import MAX_READ_BYTES, MAX_READS
from paxon.actors.messages import Query

__all__ = ["ReadQueue"]

WaitingRead = tuple[int, int, ClientToken, Query]
"""The heartbeat round that must be confirmed, the slot to have executed, whom to answer, what."""


class ReadQueue:
    """Reads in order of arrival; one confirmed round serves all that arrived before it began."""

    def __init__(self) -> None:
        self.waiting: deque[WaitingRead] = deque()
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether so many wait that there may be no more."""
        return len(self.waiting) >= MAX_READS or self.bytes >= MAX_READ_BYTES

    def add(self, round_number: int, commit: int, client: ClientToken, query: Query) -> None:
        self.bytes += len(query.query)
        self.waiting.append((round_number, commit, client, query))

    def ready(self, confirmed: int, executed: int) -> list[tuple[ClientToken, Query]]:
        """Take out what may be answered, with `confirmed` the last round a majority replied to."""
        answers = []
        while self.waiting:
            round_number, commit, client, query = self.waiting[0]
            if round_number > confirmed or commit > executed:
                break
            answers.append((client, query))
            self.bytes -= len(query.query)
            self.waiting.popleft()
        return answers

    def later_than(self, round_number: int) -> list[tuple[ClientToken, Query]]:
        """Take out those that wait for a round after this one."""
        later = [(c, query) for number, _, c, query in self.waiting if number > round_number]
        self.waiting = deque(read for read in self.waiting if read[0] <= round_number)
        self.bytes -= sum(len(query.query) for _, query in later)
        return later

    def clear(self) -> list[tuple[ClientToken, Query]]:
        """Take out all, unanswered."""
        reads = [(client, query) for _, _, client, query in self.waiting]
        self.waiting.clear()
        self.bytes = 0
        return reads
