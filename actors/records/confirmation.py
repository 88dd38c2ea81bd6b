"""Whether a started server's directory is the newest of its kind: plain data (docs/old-copies.md).

Each commit of a directory has a number. Votes, heartbeats and their replies carry it, and the
others remember the highest that they were told. A server that starts asks them for it before it
stores or answers anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from paxon.actors.ballot import ServerId

__all__ = ["SAY_AGAIN", "SAY_FIRST", "Confirmation"]

SAY_FIRST = 2.0
"""Seconds after which a server that waits for confirmation says so …"""
SAY_AGAIN = 30.0
"""… and says so again."""


class Confirmation:
    """A question about this directory's commits, and who has answered what."""

    def __init__(self, count: int, now: float, *, pending: bool, may_store: bool = True) -> None:
        self.life = 0
        """A random number of this question: answers to another do not count. 0: not asked yet."""
        self.count = count
        """The number of the last commit that the server found when it started."""
        self.pending = pending
        """Nothing may be stored, and nobody answered, until others have confirmed the count."""
        self.starting = True
        """Whether this is the question that the server's start depends on."""
        self.may_store = may_store
        """Its cluster was not in force when it started: to make it is stored, for nobody can have
        promised anything then. What it promises afterwards waits like everything else."""
        self.confirmed_by: set[ServerId] = set()
        self.denied_by: set[ServerId] = set()
        """Servers that know this one by another directory."""
        self.ask_at = now
        """When to ask (again) whoever has not answered, monotonic seconds."""
        self.all_until = now
        """Until then all others have to confirm, for the database is not the file that it was."""
        self.say_at = now + SAY_FIRST

    def ask_anew(self) -> None:
        """Begin another question, while the server takes part."""
        self.life = 0
        self.starting = False
        self.confirmed_by = set()
        self.denied_by = set()

    def is_enough(self, others: Sequence[ServerId], majority: int, now: float) -> bool:
        """Whether enough of the others have confirmed, this server itself being one."""
        needed = len(others) if now < self.all_until else majority - 1
        return len(self.confirmed_by) >= needed

    def is_hopeless(self, others: Sequence[ServerId], majority: int) -> bool:
        """Whether so many know this server by another directory that it has no majority left."""
        return len(self.denied_by) > len(others) - (majority - 1)

    def unanswered(self, others: Sequence[ServerId]) -> list[ServerId]:
        answered = self.confirmed_by | self.denied_by
        return [server for server in others if server not in answered]
