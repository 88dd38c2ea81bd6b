"""Bugs to plant in what concerns leases, reigns, clocks, and servers that have lost their vote."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from paxon.actors import Ballot, PaxosServer
from paxon.actors import server as server_module
from paxon.actors.messages import P1A, Heartbeat, HeartbeatReply
from paxon.actors.records.reads import Grants
from paxon.actors.records.reign import Reign
from tests.search.planted import Original, plant
from tests.simulation.machine import SimulatedClock


def _own_lease(original: Original) -> Any:
    def beat(self: PaxosServer, reign: Reign) -> None:
        original(self, reign)
        reign.rounds.lease_until = self._now + self.settings.election_timeout_min

    return beat


plant(
    "extend a lease by one's own heartbeat",
    "a leader's lease counts from heartbeats that nobody has answered",
    (PaxosServer, "_beat", _own_lease),
)


def _from_confirmation(original: Original) -> Any:
    def confirm_rounds(self: PaxosServer, reign: Reign) -> None:
        for number, (round_number, _, lease, busy) in enumerate(reign.rounds.sent):
            reign.rounds.sent[number] = (round_number, self._now, lease, busy)
        original(self, reign)

    return confirm_rounds


plant(
    "count a lease from its confirmation",
    "a leader's lease counts from when a majority's answers arrived, not from when it asked",
    (PaxosServer, "_confirm_rounds", _from_confirmation),
)


def _not_asked(original: Original) -> Any:
    def confirm_rounds(self: PaxosServer, reign: Reign) -> None:
        asked = max((lease for _, _, lease, _ in reign.rounds.sent), default=0)
        for number, (round_number, sent, _, busy) in enumerate(reign.rounds.sent):
            reign.rounds.sent[number] = (round_number, sent, asked, busy)
        original(self, reign)

    return confirm_rounds


plant(
    "a lease from those who were not asked",
    "of the rounds that a majority may have answered one asked for a lease, and that counts",
    (PaxosServer, "_confirm_rounds", _not_asked),
)


plant(
    "count on a lease for all of its length",
    "a leader counts on a lease for as long as it was granted, whatever the clocks do",
    (server_module, "counted", lambda _original: lambda length, _drift: length),
)


def _stands_still(original: Original) -> Any:
    def sleep_through(self: SimulatedClock, seconds: float) -> None:
        self.origin -= seconds * self.rate

    return sleep_through


plant(
    "a clock that stands still in a suspended machine",
    "leases are counted by CLOCK_MONOTONIC, which a suspended machine does not advance",
    (SimulatedClock, "sleep_through", _stands_still),
)


def _older_reign(original: Original) -> Any:
    def on_heartbeat_reply(self: PaxosServer, reply: HeartbeatReply, sender: int) -> None:
        if reply.ballot < self.promised:
            reply = msgspec.structs.replace(reply, ballot=self.promised)
        original(self, reply, sender)

    return on_heartbeat_reply


plant(
    "count replies of an older reign",
    "a leader's round is confirmed by an answer to a round of the same number in an older ballot",
    (PaxosServer, "on_heartbeat_reply", _older_reign),
)


def _by_its_number(original: Original) -> Any:
    def on_heartbeat(self: PaxosServer, heartbeat: Heartbeat, sender: int) -> None:
        original(self, heartbeat, sender)
        replies = self._outbox.to_peer.get(sender, [])
        if replies and isinstance(replies[-1], HeartbeatReply):
            replies[-1] = msgspec.structs.replace(replies[-1], round=heartbeat.round)

    return on_heartbeat


plant(
    "answer an older reign by its number",
    "a late heartbeat of a leader's first reign is answered as if it were of its second",
    (PaxosServer, "on_heartbeat", _by_its_number),
)


def _heed_the_deposed(original: Original) -> Any:
    def on_heartbeat(self: PaxosServer, heartbeat: Heartbeat, sender: int) -> None:
        original(self, heartbeat, sender)
        if heartbeat.ballot < self.promised and self.role == "follower":
            self._heard_from_leader(sender)

    return on_heartbeat


plant(
    "obey a stale heartbeat",
    "a follower follows a leader whose ballot is below the one that it has promised",
    (PaxosServer, "on_heartbeat", _heed_the_deposed),
)


def _vouch_for_the_deposed(original: Original) -> Any:
    def on_heartbeat(self: PaxosServer, heartbeat: Heartbeat, sender: int) -> None:
        original(self, heartbeat, sender)
        replies = self._outbox.to_peer.get(sender, [])
        if replies and isinstance(replies[-1], HeartbeatReply):
            replies[-1] = msgspec.structs.replace(replies[-1], ballot=heartbeat.ballot)

    return on_heartbeat


plant(
    "vouch for a deposed leader",
    "a stale heartbeat is answered as if its sender still led",
    (PaxosServer, "on_heartbeat", _vouch_for_the_deposed),
)


class _NoLease:
    """While inside, a server knows of no lease that it has granted, and hears no leader."""

    def __init__(self, server: PaxosServer, *, deaf: bool = True) -> None:
        self.server = server
        self.deaf = deaf

    def __enter__(self) -> None:
        self.server._lease_may_hold = lambda: False  # type: ignore[method-assign]
        if self.deaf:
            self.server._hears_leader = lambda: False  # type: ignore[method-assign]

    def __exit__(self, *_exception: object) -> None:
        del self.server._lease_may_hold
        if self.deaf:
            del self.server._hears_leader


def _no_lease(original: Original) -> Any:
    def handler(self: PaxosServer, *arguments: Any) -> None:
        with _NoLease(self, deaf=False):
            original(self, *arguments)

    return handler


plant(
    "campaign under a lease of one's own granting",
    "a follower tries to lead, and promises itself, although a lease that it granted holds",
    (PaxosServer, "_on_election_timeout", _no_lease),
)


plant(
    "contend under a lease of one's own granting",
    "a follower with clients that wait tries to lead although a lease that it granted holds",
    (PaxosServer, "_before_flush", _no_lease),
)
plant(
    "promise under a lease",
    "whoever hears no leader any more answers a P1A although a lease that it granted holds",
    (PaxosServer, "on_p1a", _no_lease),
)


def _promise_repeated(original: Original) -> Any:
    def on_p1a(self: PaxosServer, p1a: P1A, sender: int) -> None:
        if p1a.ballot != self.promised:
            original(self, p1a, sender)
            return
        with _NoLease(self):
            original(self, p1a, sender)

    return on_p1a


plant(
    "repeat a promise under a lease",
    "a P1A in the ballot promised already is answered although a lease holds",
    (PaxosServer, "on_p1a", _promise_repeated),
)


def _as_a_voter(original: Original) -> Any:
    def handler(self: PaxosServer, message: Any, sender: int) -> None:
        if self.is_member:
            original(self, message, sender)
            return
        voter = self.is_voter
        self.is_member = self.is_voter = True
        try:
            original(self, message, sender)
        finally:
            self.is_member, self.is_voter = False, voter

    return handler


plant(
    "promise without a vote",
    "a server that lost its disk answers P1As before it is a member again",
    (PaxosServer, "on_p1a", _as_a_voter),
)
plant(
    "accept without a vote",
    "a server that lost its disk accepts before it is a member again",
    (PaxosServer, "on_p2a", _as_a_voter),
)
plant(
    "vouch without a vote",
    "a server that lost its disk confirms reads before it is a member again",
    (PaxosServer, "on_heartbeat", _as_a_voter),
)
plant(
    "grant a pre-vote without a vote",
    "a server that lost its disk helps others to campaign before it is a member again",
    (PaxosServer, "on_pre_vote", _as_a_voter),
)


# --- a leader that hands over (M21, docs/membership.md) ------------------------------------------


def _waive_all(original: Original) -> Any:
    def waive(self: Grants, ballot: Ballot) -> None:
        self.until = -math.inf

    return waive


plant(
    "waive a grant to another ballot",
    "an acceptor forgets at a transfer what it has granted to whichever leader",
    (Grants, "waive", _waive_all),
)


def _lead_on(original: Original) -> Any:
    def hand_over(self: PaxosServer, to: int = 0) -> int | str:
        reign = self._reign
        heir: int | str = original(self, to)
        if isinstance(heir, int):
            self._reign, self.leader = reign, self.settings.server
            self._following.heir = 0
        return heir

    return hand_over


plant(
    "lead on after handing over",
    "a leader that has handed over goes on until it hears of the next one",
    (PaxosServer, "hand_over", _lead_on),
)
