"""Bugs that show only where something rare happens (tests/simulation/about/rarities.py)."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from paxon.actors import Ballot, PaxosServer
from paxon.actors.disk.memory_storage import MemoryStorage
from paxon.actors.disk.storage import SnapshotInfo
from paxon.actors.environment import NEVER
from paxon.actors.limits import bounds
from paxon.actors.limits.bounds import RoundGuard
from paxon.actors.log import SlotLog
from paxon.actors.messages import Heartbeat
from paxon.actors.parts.membership import DOUBT_INTERVAL, Membership
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.catching_up import CatchingUp
from paxon.actors.records.disks import Confirmation, KnownDisks
from tests.search.planted import Original, PlantedBug, always, planted

__all__ = ["RARITIES"]

RARITIES: list[PlantedBug] = []


def _plant(name: str, description: str, *patches: Any) -> None:
    RARITIES.append(planted(name, description, *patches))


def _unchecked(_original: Original) -> Any:
    def finish(self: MemoryStorage, info: SnapshotInfo) -> bytes | None:
        image = bytes(self._received) if info == self._incoming else b""
        self._incoming, self._received = None, bytearray()
        self._images[info.slot] = (info, image)
        return image

    return finish


_plant(
    "a damaged snapshot is taken over",
    "the checksum of a snapshot that has come is not compared",
    (MemoryStorage, "_finish_received", _unchecked),
)


_plant(
    "a ballot out of reach is never come nearer to",
    "who is too many rounds behind follows nobody, however long the others insist",
    (RoundGuard, "step_towards", always(None)),
)


def _only_near(original: Original) -> Any:
    def note_commit(
        self: CatchingUp, commit: int, ballot: Ballot, sender: int, log: SlotLog
    ) -> None:
        if commit - log.chosen_to <= bounds.MAX_SLOTS_AHEAD:
            original(self, commit, ballot, sender, log)

    return note_commit


_plant(
    "a commit index out of reach is not heard",
    "who is too many slots behind to accept what is proposed does not catch up either",
    (CatchingUp, "note_commit", _only_near),
)


def _never_less(_original: Original) -> Any:
    def hear_answer(self: CatchingUp, commit: int, sender: int, log: SlotLog) -> None:
        self.hear(commit, sender)
        self.choose_known(log)

    return hear_answer


_plant(
    "a commit index is taken back by nobody",
    "who was told of slots that nobody has goes on asking for them, though the teller denies it",
    (CatchingUp, "hear_answer", _never_less),
)


def _leads_on_what_it_holds(original: Original) -> Any:
    def take_over(self: PaxosServer, candidacy: Candidacy) -> None:
        known = self.catching_up
        known.known_commit = min(known.known_commit, self.log.last)
        original(self, candidacy)

    return take_over


_plant(
    "who was told of more chosen slots than a majority holds leads",
    "the slots beyond get other values, though what they held may have been acknowledged",
    (PaxosServer, "_take_over", _leads_on_what_it_holds),
)


_plant(
    "a count that was never told is denied by nobody",
    "who runs lets others remember more commits of its directory than it has ever told of",
    (Confirmation, "denial", always(None)),
)


def _asks_in_doubt(original: Original) -> Any:
    asked_again: WeakKeyDictionary[Membership, float] = WeakKeyDictionary()

    def check_own_disk(self: Membership, *, doubts: bool = False) -> None:
        now = self._outbox.now
        if doubts:
            asked_again[self] = now + DOUBT_INTERVAL
        elif now < asked_again.get(self, NEVER):
            return
        else:
            del asked_again[self]
        original(self, doubts=True)

    return check_own_disk


_plant(
    "a count is denied once",
    "who is told of too many of its own commits asks all, and once more a second later",
    (Membership, "check_own_disk", _asks_in_doubt),
)


def _keeps_what_was_lent(original: Original) -> Any:
    def hear(self: KnownDisks, heartbeat: Heartbeat) -> None:
        self._lower = set()
        original(self, heartbeat)

    return hear


_plant(
    "a leader takes no count back",
    "what it told of another's commits stays when it tells less, since that one denied it",
    (KnownDisks, "hear", _keeps_what_was_lent),
)


def _voters_alone(original: Original) -> Any:
    def unanswered(self: Confirmation) -> list[int]:
        learners = {member.server for member in self.newest.members if not member.voter}
        return [server for server in original(self) if server not in learners]

    return unanswered


_plant(
    "a learner is not told that a count was denied",
    "who denies a count asks only voters again, and a learner takes along what it remembers",
    (Confirmation, "unanswered", _voters_alone),
)
