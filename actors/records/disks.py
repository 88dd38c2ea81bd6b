"""By which data directory each other member is known: plain data (docs/design/old-copies.md).

A member is its directory: with another one it is not. And each commit of a directory has a number,
of which the others remember the highest that they were told: one that starts with less is old.
"""

from __future__ import annotations

from collections.abc import Mapping

from paxon.actors.ballot import ServerId
from paxon.actors.limits.bounds import MAX_COUNT_JUMP
from paxon.actors.messages import CountAnswer, CountQuestion

__all__ = ["KnownDisks"]


class KnownDisks:
    """The others' directories, as one server knows them; all times are monotonic seconds."""

    def __init__(self) -> None:
        self.incarnations: dict[ServerId, int] = {}
        """The other members, each by the incarnation of its data directory."""
        self.counts: dict[ServerId, int] = {}
        """The highest commit number that each one's directory was heard to have."""
        self.heard_at: dict[ServerId, float] = {}
        """When each was heard last, by the directory that it is known by."""
        self.answered: dict[ServerId, tuple[int, int]] = {}
        """What each that asked about its directory was answered last, and in which life."""

    def join(self, incarnations: dict[ServerId, int], now: float) -> None:
        """These are the others. (One that has just started does not know who lives.)"""
        before, self.incarnations = self.incarnations, incarnations
        same = [s for s, number in incarnations.items() if before.get(s) == number]
        heard, counts = self.heard_at, self.counts
        self.heard_at = dict.fromkeys(incarnations, now) | {s: heard.get(s, now) for s in same}
        self.counts = dict.fromkeys(incarnations, 0) | {s: counts[s] for s in same}

    def recover(self, counts: Mapping[ServerId, int]) -> None:
        """Take up what this server's directory remembers."""
        known = {s: count for s, count in counts.items() if s in self.incarnations}
        self.counts = dict.fromkeys(self.incarnations, 0) | known

    def note_count(self, server: ServerId, count: int) -> None:
        """A server that was confirmed itself tells of a commit of its directory.

        Remembered on disk with the next commit. At most so much a message: limits/bounds.py. (One
        that was a member when its message came is perhaps none any more.)
        """
        known = self.counts.get(server)
        if known is not None and count > known:
            self.counts[server] = min(count, known + MAX_COUNT_JUMP)

    def hear(self, told: list[tuple[ServerId, int, int]]) -> None:
        """Learn from the leader what it knows of all directories.

        Two followers may never talk until the leader is gone: by then they have to know how far
        each other's directories are, or an old one would pass for the one that voted.
        """
        for server, incarnation, count in told:
            if self.incarnations.get(server) == incarnation:
                self.note_count(server, count)

    def answer(self, question: CountQuestion, sender: ServerId) -> CountAnswer | None:
        """The answer about a server's directory; None to one that denies what it was told."""
        known = self.incarnations.get(sender, 0)
        remembered = self.counts.get(sender, 0) if known == question.incarnation else 0
        if not question.denies:
            self.answered[sender] = (question.life, remembered)
            return CountAnswer(question.life, known, remembered)
        if self.answered.pop(sender, (0, 0)) == (question.life, remembered) and (
            question.count < remembered == question.denies
        ):
            # It was confirmed and runs, so that it knows best: the higher number came in a frame
            # that was damaged, or not its own. It must not be refused for that when it restarts.
            # (A denial that comes late denies what was remembered once, and not what is now.)
            self.counts[sender] = max(question.count, remembered - MAX_COUNT_JUMP)
        return None
