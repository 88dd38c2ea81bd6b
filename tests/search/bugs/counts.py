"""Bugs to plant in the care for old copies of data directories (docs/design/old-copies.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from paxon.actors import PaxosServer, ServerId
from paxon.actors.disk.storage import Storage
from paxon.actors.environment import ServerBurst
from paxon.actors.messages import P1A, P2A, CountAnswer, CountQuestion, PreVote
from paxon.actors.parts.membership import Membership
from paxon.actors.records.disks import Confirmation, KnownDisks
from tests.search.planted import Original, always, plant


def _believe_questions(original: Original) -> Any:
    def on_count_question(self: Membership, question: CountQuestion, sender: ServerId) -> None:
        original(self, question, sender)
        if self.disks.incarnations.get(sender) == question.incarnation:
            self.disks.note_count(sender, question.count)

    return on_count_question


plant(
    "take a count from an unconfirmed server",
    "the count in a question is remembered like one that a confirmed server tells",
    (Membership, "on_count_question", _believe_questions),
)


def _one_less(original: Original) -> Any:
    def needed(self: Confirmation) -> int:
        return int(original(self)) - 1

    return needed


plant(
    "confirmation by a minority",
    "a started server takes part when one less than a majority has confirmed its directory",
    (Confirmation, "_needed", _one_less),
)


def _let_through(*kinds: type) -> Any:
    def mutate(original: Original) -> Any:
        def handle(self: Membership, burst: ServerBurst) -> None:
            original(self, burst)
            server = self._host
            assert isinstance(server, PaxosServer)
            self.confirmation.may_store = True  # its own check is not what is tried here
            for sender, incarnation, received in burst.peers:
                if self.disks.incarnations.get(sender) == incarnation and self.confirmation.pending:
                    for message in received:
                        if isinstance(message, kinds):
                            server._peer_handlers[type(message)](message, sender)

        return handle

    return mutate


plant(
    "vote before confirmation",
    "a started server promises and accepts although nobody has confirmed its directory yet",
    (Membership, "handle", _let_through(P1A, P2A)),
)
plant(
    "grant a pre-vote before confirmation",
    "a started server helps others to campaign although nobody has confirmed its directory yet",
    (Membership, "handle", _let_through(PreVote)),
)


def _note_the_start(original: Original) -> Any:
    def on_recovered(self: PaxosServer, *, fresh: bool) -> None:
        original(self, fresh=fresh)
        if not fresh:
            self.membership.confirmation.may_store = True  # (as above)
            self._storage.save_lease(self._storage.load().lease + 1)

    return on_recovered


plant(
    "store before confirmation",
    "a started server commits to its directory before others have confirmed it",
    (PaxosServer, "_on_recovered", _note_the_start),
)


def _own_alone(original: Original) -> Any:
    def disks_known(self: Membership) -> list[tuple[ServerId, int, int]]:
        me = self._settings.server
        return [(s, number, count if s == me else 0) for s, number, count in original(self)]

    return disks_known


plant(
    "keep what is known of counts",
    "a leader tells of its own commits, and does not hand on what it knows of the others'",
    (Membership, "disks_known", _own_alone),
)


def _unwritten(_original: Original) -> Any:
    def save_counts(self: Storage, counts: Mapping[ServerId, int]) -> None:
        del self, counts

    return save_counts


plant(
    "remember counts in memory only",
    "what others told of their commits is gone after a restart",
    (Storage, "save_counts", _unwritten),
)


def _never_too_late(original: Original) -> Any:
    def on_count_answer(self: Membership, answer: CountAnswer, sender: ServerId) -> None:
        original(self, structs.replace(answer, remembered=0), sender)

    return on_count_answer


plant(
    "go on with an old copy",
    "a started server does not care that others remember a later commit than its directory has",
    (Membership, "on_count_answer", _never_too_late),
)


def _deny_once_let_in(original: Original) -> Any:
    def check_count(self: Confirmation, answer: CountAnswer, sender: ServerId, held: int) -> None:
        if self.pending or self.entering:
            original(self, answer, sender, held)
        else:
            self.vouched |= set(self.newest.servers)

    return check_count


plant(
    "believe a denial of an old copy",
    "a majority's confirmation is enough to deny what a server remembers that had none to give",
    (Confirmation, "check_count", _deny_once_let_in),
)
plant(
    "forget what is told of commits",
    "counts in votes and heartbeats are not remembered",
    (KnownDisks, "note_count", always(None)),
)
