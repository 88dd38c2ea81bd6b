"""Bugs to plant in the real code at run time: whoever finds none of them checks nothing.

Each is a mutation of a few methods, applied by patching them on their classes, never a copy of
them; servers made while it is applied have it, from their construction on. The simulator and the
state search use the same list (`python -m tests.search.planted_table` prints who catches what).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from inspect import isfunction, signature
from typing import Any

import msgspec

from paxon.actors import NO_BALLOT, Ballot, PaxosServer
from paxon.actors.actor import BurstActor
from paxon.actors.disk.storage import Storage
from paxon.actors.election import ElectionPolicy
from paxon.actors.execution.application import Application
from paxon.actors.execution.sessions import Session, SessionTable
from paxon.actors.log import SlotLog
from paxon.actors.messages import P1B, P2A, P2B, Heartbeat, Query
from paxon.actors.parts.snapshotting import Snapshotting
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.catching_up import CatchingUp
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.reign import Reign

__all__ = ["PLANTED", "PlantedBug", "by_name", "planted"]

Apply = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class PlantedBug:
    """A mutation with a name; inside `apply()` new servers have it."""

    name: str
    description: str
    apply: Apply


PLANTED: list[PlantedBug] = []
"""All of them, in the order of the rules (docs/ARCHITECTURE.md)."""


def by_name(name: str) -> PlantedBug:
    """Raises `KeyError`, with the names that there are."""
    for bug in PLANTED:
        if bug.name == name:
            return bug
    raise KeyError(f"no planted bug {name!r}; there are {', '.join(b.name for b in PLANTED)}")


Original = Any
Patch = tuple[Any, str, Callable[[Original], Any]]
"""A class or module, the name of a function in it, and what makes the mutant of the original."""


def planted(name: str, description: str, *patches: Patch) -> PlantedBug:
    """A bug that replaces methods while it is applied."""

    @contextmanager
    def apply() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, attribute, mutate in patches:
                original = owner.__dict__[attribute]
                mutant = mutate(original)
                assert _fits(mutant, original), f"{name}: {attribute} has other arguments by now"
                setattr(owner, attribute, mutant)
                stack.callback(setattr, owner, attribute, original)
            yield

    return PlantedBug(name, description, apply)


def _fits(mutant: Any, original: Any) -> bool:
    """Whether it can be called like the original. If not, any check would seem to catch it."""
    functions = [getattr(each, "__func__", each) for each in (mutant, original)]
    if not all(map(isfunction, functions)):
        return True  # a property, or the like
    made, wanted = [list(signature(each).parameters.values()) for each in functions]
    return any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in made) or [
        one.kind is one.KEYWORD_ONLY and one.name for one in made
    ] == [one.kind is one.KEYWORD_ONLY and one.name for one in wanted]


def plant(name: str, description: str, *patches: Patch) -> None:
    """Add a bug to the list."""
    PLANTED.append(planted(name, description, *patches))


def always(value: object) -> Callable[[Original], Any]:
    """A method that returns `value` whatever it is asked."""
    return lambda _original: lambda *_arguments: value


# --- rule 1, promise -----------------------------------------------------------------------------


def _accept_anything(original: Original) -> Any:
    def on_p2a(self: PaxosServer, p2a: P2A, sender: int) -> None:
        if p2a.ballot < self.promised and self.log.get(p2a.slot) is None:
            if p2a.slot > self.log.discarded:
                self.log.accept(p2a.slot, p2a.ballot, p2a.value)
                self._storage.save_accepted(p2a.slot, p2a.ballot, p2a.value)
            self._outbox.acknowledge(sender, p2a.ballot, p2a.slot, self._next_count)
            return
        original(self, p2a, sender)

    return on_p2a


plant(
    "accept below the promise",
    "an acceptor takes a P2A in a ballot below the one that it has promised",
    (PaxosServer, "on_p2a", _accept_anything),
)


def _forget_promise(original: Original) -> Any:
    def recover(self: PaxosServer) -> None:
        disk: Storage = getattr(self._storage, "_inner", self._storage)  # (the simulator's has one)
        disk.durable.promised = disk._marks.promised = NO_BALLOT
        original(self)

    return recover


plant(
    "forget the promise on restart",
    "a restarted acceptor has its accepted values, but not its ballot",
    (PaxosServer, "_recover", _forget_promise),
)


def _report_nothing(original: Original) -> Any:
    def p1b(self: PaxosServer, first_slot: int, to: int) -> P1B:
        full: P1B = original(self, first_slot, to)
        return P1B(
            full.ballot, full.first_slot, 0, full.accepted[1:],
            full.chosen_to, full.discarded,
        )  # fmt: skip

    return p1b


plant(
    "promise without reporting all",
    "a P1B leaves out the first value that the acceptor has accepted",
    (PaxosServer, "_p1b", _report_nothing),
)


# --- rule 2, accept ------------------------------------------------------------------------------


def _any_ballot(original: Original) -> Any:
    def on_p2b(self: PaxosServer, p2b: P2B, sender: int) -> None:
        if p2b.promised is None and self.role == "leader":
            p2b = P2B(self.promised, p2b.first, p2b.last)
        original(self, p2b, sender)

    return on_p2b


plant(
    "count a P2B of any ballot",
    "a leader counts a vote for its slot without comparing the ballot that it names",
    (PaxosServer, "on_p2b", _any_ballot),
)


def _rejection_counts(original: Original) -> Any:
    def on_p2b(self: PaxosServer, p2b: P2B, sender: int) -> None:
        if p2b.promised is not None:
            p2b = P2B(p2b.promised, p2b.first, p2b.last)
        original(self, p2b, sender)

    return on_p2b


plant(
    "treat a rejected P2B as accepted",
    "a rejection that names the ballot now led is counted as a vote in it",
    (PaxosServer, "on_p2b", _rejection_counts),
)


def _smaller_majority(original: property) -> Any:
    return property(lambda self: max(1, len(self.voters) // 2))


plant(
    "half is enough",
    "a quorum is half of the servers, rounded down",
    (Configuration, "majority", _smaller_majority),
)


# --- rule 3, lead --------------------------------------------------------------------------------


def _lowest_ballot(original: Original) -> Any:
    def report(self: Candidacy, accepted: Any) -> None:
        best = self._reported.get(accepted.slot)
        if best is None or accepted.ballot < best.ballot:
            self._reported[accepted.slot] = accepted

    return report


plant(
    "take over the lowest ballot's value",
    "of the values reported for a slot the new leader proposes the oldest",
    (Candidacy, "report", _lowest_ballot),
)


def _no_no_ops(original: Original) -> Any:
    def takeover(self: Candidacy, first: int, *known: Any) -> tuple[list[tuple[int, bytes]], bool]:
        values, sealing = original(self, first, *known)
        return [(slot, value) for slot, value in values if slot in self._reported], sealing

    return takeover


plant(
    "skip the no-op",
    "a new leader proposes nothing into the holes that it finds",
    (Candidacy, "takeover", _no_no_ops),
)


def _first_chunk_is_enough(original: Original) -> Any:
    def take(self: Candidacy, p1b: P1B, sender: int) -> bool:
        more: bool = original(self, p1b, sender)
        self.promised.add(sender)
        return more and len(self.promised) <= 1

    return take


plant(
    "count the first chunk of a promise",
    "a candidate leads when a promise has arrived in part",
    (Candidacy, "take", _first_chunk_is_enough),
)


def _carry_chunks(original: Original) -> Any:
    def campaign(self: PaxosServer, *, after: Ballot | None = None) -> None:
        before = self._candidacy
        original(self, after=after)
        now = self._candidacy
        if before is not None and now is not None and now is not before:
            now._expected = {server: slot for server, slot in before._expected.items() if slot > 0}
            now._reported = dict(before._reported)

    return campaign


plant(
    "carry chunks of a promise into the next ballot",
    "a candidate that raises its ballot goes on with the chunks that it got in the one before",
    (PaxosServer, "campaign", _carry_chunks),
)


def _lead_over_discarded(original: Original) -> Any:
    def on_p1b(self: PaxosServer, p1b: P1B, sender: int) -> None:
        told = P1B(p1b.ballot, p1b.first_slot, p1b.next_slot, p1b.accepted, p1b.chosen_to, 0)
        original(self, told, sender)

    return on_p1b


plant(
    "lead over discarded slots",
    "a candidate does not care that an acceptor has discarded slots that it lacks itself",
    (PaxosServer, "on_p1b", _lead_over_discarded),
)


def _same_ballot(original: Original) -> Any:
    def next_for(self: Ballot, server: int) -> Ballot:
        if self.leader == server:
            return self
        ballot: Ballot = original(self, server)
        return ballot

    return next_for


def _promise_again(original: Original) -> Any:
    def promise(self: PaxosServer, ballot: Ballot) -> None:
        if ballot == self.promised:
            self._synced = True
            return
        original(self, ballot)

    return promise


plant(
    "reuse a ballot after a restart",
    "a server that leads again does so in the ballot that it led before",
    (Ballot, "next_for", _same_ballot),
    (PaxosServer, "_promise", _promise_again),
)


# --- rule 4, chosen ------------------------------------------------------------------------------


def _index_says_it_all(original: Original) -> Any:
    def choose_known(self: CatchingUp, log: SlotLog) -> None:
        held = log.get(log.chosen_to + 1)
        while log.chosen_to < self.leader_commit and held is not None:
            log.choose(log.chosen_to + 1)
            held = log.get(log.chosen_to + 1)
        original(self, log)

    return choose_known


plant(
    "choose by the index alone",
    "a follower takes what it accepted in whatever ballot for chosen up to the commit index",
    (CatchingUp, "choose_known", _index_says_it_all),
)


# --- rule 5, clients -----------------------------------------------------------------------------

plant(
    "execute twice after a retry",
    "a command that is in two slots takes effect in both",
    (Session, "known", always(None)),
)
plant(
    "ignore the order of a pipeline",
    "a command is executed although the one that it follows was not",
    (Session, "executed", always(True)),
)


def _no_sessions(original: Original) -> Any:
    def load(self: SessionTable, dump: bytes) -> None:
        original(self, dump)
        self._sessions, self._unused = {}, {}

    return load


plant(
    "drop the sessions from the snapshot",
    "whoever is brought up by a snapshot, or restarts from one, knows no session",
    (SessionTable, "load", _no_sessions),
)


# --- rule 7 and 8, discarding, snapshots ---------------------------------------------------------


def _majority_executed(original: Original) -> Any:
    def executed_by_all(self: Reign, own: int) -> int:
        executed = [own, *[follower.executed for follower in self.followers.values()]]
        return sorted(executed, reverse=True)[len(executed) // 2]

    return executed_by_all


plant(
    "discard at the majority's executed slot",
    "slots go when a majority, not all, have executed them",
    (Reign, "executed_by_all", _majority_executed),
)


def _executed_in_memory(original: Original) -> Any:
    return lambda self: self.application.executed


plant(
    "report what only memory has executed",
    "a follower lets others discard slots that it would need again after a restart",
    (PaxosServer, "_executed_durably", _executed_in_memory),
)


def _any_chunk(original: Original) -> Any:
    def on_snapshot_chunk(self: Snapshotting, chunk: Any, sender: int) -> None:
        info = self._host.catching_up.incoming
        if info is not None and chunk.slot == info.slot:
            self._receive(info, chunk.offset, chunk.data, sender)

    return on_snapshot_chunk


def _however_late(original: Original) -> Any:
    def settle(self: Snapshotting) -> None:
        late = self._host.catching_up
        if late.incoming is None or late.incoming.slot > self._host.log.chosen_to:
            original(self)
        elif late.is_whole():
            late.check = None
            self._host.become(late.incoming)

    return settle


def _any_image(original: Original) -> Any:
    def restore(self: Application, image: bytes) -> None:
        executed, self.executed = self.executed, 0
        original(self, image)
        del executed

    return restore


plant(
    "apply a stale snapshot",
    "a snapshot that arrives late replaces a state that has gone further by then",
    (Snapshotting, "on_snapshot_chunk", _any_chunk),
    (Snapshotting, "settle", _however_late),
    (Application, "restore", _any_image),
)


# --- rule 9, reads -------------------------------------------------------------------------------


def _no_round(original: Original) -> Any:
    def on_query(self: PaxosServer, query: Query, client: bytes) -> None:
        if query.mode == "linearizable" and self._serves():
            self._answer_query(client, query)
            return
        original(self, query, client)

    return on_query


plant(
    "read without a round",
    "a leader answers a linearizable read without asking whether it still leads",
    (PaxosServer, "on_query", _no_round),
)


def _earlier_round(original: Original) -> Any:
    def on_query(self: PaxosServer, query: Query, client: bytes) -> None:
        reign = self._reign
        if reign is None:
            original(self, query, client)
            return
        reign.rounds.last -= 1
        try:
            original(self, query, client)
        finally:
            reign.rounds.last += 1

    return on_query


plant(
    "read by a round begun before",
    "a read is confirmed by replies to heartbeats that were sent before it arrived",
    (PaxosServer, "on_query", _earlier_round),
)


def _leads(original: Original) -> Any:
    return lambda self: self._reign


plant(
    "read before the takeover is executed",
    "a new leader serves before it has executed the slots that it took over",
    (PaxosServer, "_serves", _leads),
)


# --- rule 10, persist before send ----------------------------------------------------------------


def _send_first(original: Original) -> Any:
    def flush(self: PaxosServer) -> None:
        for server, messages in self._outbox.to_peer.items():
            self._network.send(server, messages)
        self._outbox.to_peer = {}
        original(self)

    return flush


plant(
    "send before the sync",
    "P1Bs and P2Bs leave before what they tell of is on the disk",
    (BurstActor, "_flush", _send_first),
)


def _forget_accepted(original: Original) -> Any:
    def save_accepted(
        self: Storage, slot: int, ballot: Ballot, value: bytes, checksum: int | None
    ) -> None:
        if slot % 3:
            original(self, slot, ballot, value, checksum)

    return save_accepted


plant(
    "keep an accepted value in memory only",
    "every third slot that an acceptor accepts is not written to its disk",
    (Storage, "save_accepted", _forget_accepted),
)


# --- rule 6, election ----------------------------------------------------------------------------


def _withhold_nothing(original: Original) -> Any:
    def on_recovered(self: PaxosServer, *, fresh: bool) -> None:
        original(self, fresh=fresh)
        self._grants.until = 0.0  # forget_at stays: nothing else is different

    return on_recovered


plant(
    "promise at once after a restart",
    "a restarted server gives promises although a lease that it granted may still hold",
    (PaxosServer, "_on_recovered", _withhold_nothing),
)


def _never_wait(original: Original) -> Any:
    return lambda self, random: 0.0


plant(
    "never wait after a preemption",
    "two candidates may preempt each other for ever under every policy",
    (ElectionPolicy, "retry_delay", _never_wait),
)


# --- leases among servers of other settings (docs/running/settings.md) ----------------------------


def _grant_without_disk(original: Original) -> Any:
    def grant(self: PaxosServer, heartbeat: Heartbeat) -> None:
        self._grants.grant(heartbeat.ballot, heartbeat.lease, heartbeat.drift, self._now)

    return grant


plant(
    "grant a lease in memory only",
    "a server that grants a lease does not write it to its disk before it says so",
    (PaxosServer, "_grant", _grant_without_disk),
)


def _grant_own_length(original: Original) -> Any:
    def grant(self: PaxosServer, heartbeat: Heartbeat) -> None:
        own = msgspec.structs.replace(heartbeat, lease=self.settings.election_timeout_min)
        original(self, own)

    return grant


plant(
    "grant a lease of one's own length",
    "a server grants a lease as long as its own timeout, not as was asked for",
    (PaxosServer, "_grant", _grant_own_length),
)


def _grant_for_courtesy(original: Original) -> Any:
    def may_hold(self: PaxosServer) -> bool:
        return self._policy.courteous and bool(original(self))

    return may_hold


plant(
    "keep a lease only where courtesy is the policy",
    "a server whose policy knows no courtesy forgets what it has granted",
    (PaxosServer, "_lease_may_hold", _grant_for_courtesy),
)


import tests.search.bugs.counts  # noqa: E402 (these two add their own to the list)
import tests.search.bugs.leases  # noqa: E402, F401
