"""What a candidate has heard so far in its ballot: plain data, kept by the server."""

from __future__ import annotations

from dataclasses import dataclass, field

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.execution.application import Application
from paxon.actors.log import SlotLog
from paxon.actors.messages import NO_OP, P1A, P1B, Accepted
from paxon.actors.records.configuration import is_config
from paxon.actors.slot_values import packed_in

__all__ = ["Candidacy"]


@dataclass
class Candidacy:
    """The promises for one ballot and, per slot, the value accepted at the highest ballot."""

    ballot: Ballot
    first_slot: int
    ask_again_at: float = 0.0
    """When to ask those again whose promises have not come, monotonic seconds."""
    after: Ballot | None = None
    """The ballot of the leader that handed over to this server; None: nobody did."""
    promised: set[ServerId] = field(default_factory=set)
    """Servers whose P1B arrived whole."""
    _expected: dict[ServerId, int] = field(default_factory=dict)
    """Per server the slot at which its next chunk has to start."""
    _reported: dict[int, Accepted] = field(default_factory=dict)

    def take(self, p1b: P1B, sender: ServerId) -> bool:
        """Add a chunk of a promise; whether there is another to ask for.

        A chunk that is not the next one expected (a duplicate, or late) changes nothing.
        """
        if p1b.first_slot != self._expected.get(sender, self.first_slot):
            return False
        for accepted in p1b.accepted:
            self.report(accepted)
        if p1b.next_slot:
            self._expected[sender] = p1b.next_slot
            return True
        self._expected[sender] = -1
        self.promised.add(sender)
        return False

    def report(self, accepted: Accepted) -> None:
        """Some acceptor holds this value; the highest ballot's one counts (PMMC §2.3, pmax)."""
        if accepted.ballot.epoch != self.ballot.epoch:
            return  # (rows of other epochs do not count: docs/membership.md, M2 and M3)
        best = self._reported.get(accepted.slot)
        if best is None or accepted.ballot > best.ballot:
            self._reported[accepted.slot] = accepted

    def report_own(self, log: SlotLog, application: Application) -> Ballot:
        """Add what this server has accepted itself; returns the reign of the last chosen slot."""
        reign = application.reign
        for accepted in log.accepted_from(application.executed + 1):
            if accepted.slot > log.chosen_to:
                self.report(accepted)
            else:
                reign = max(reign, packed_in(accepted.value))
        return reign

    def question(self, server: ServerId = 0) -> P1A:
        """What to ask this server (again), or all: the promise, from its next chunk on."""
        first = self._expected.get(server, self.first_slot)
        return P1A(self.ballot, first, self.after)

    @property
    def last(self) -> int:
        """The highest slot that anything was reported for; 0 if there is none."""
        return max(self._reported, default=0)

    def ballots(self, first: int, highest: Ballot) -> tuple[Ballot, Ballot]:
        """The lowest ballot of anything reported from slot `first` on, and the highest of all.

        `highest` is that of what this server ever accepted.
        """
        lowest = self.ballot
        for slot, accepted in self._reported.items():
            highest = max(highest, accepted.ballot)
            if slot >= first:
                lowest = min(lowest, accepted.ballot)
        return lowest, highest

    def takeover(
        self, first: int, reign: Ballot, commit: int
    ) -> tuple[list[tuple[int, bytes]], bool]:
        """The values to propose from slot `first` on: those reported, no-ops into the holes.

        Batches that are out of order (`_out_of_order`) become no-ops, too. `reign` is that of the
        last batch below `first`; all slots up to `commit` are known to be chosen.

        Also returns whether the values end with a CONFIG. What was reported above it is of lower
        ballots then, and was not chosen. A CONFIG below a row of a higher ballot is void instead:
        had it been chosen, the leader of that ballot would have seen it (docs/membership.md, M7).
        """
        values = []
        passed = self._out_of_order(first, reign, commit)
        for slot in range(first, self.last + 1):
            held = self._reported.get(slot)
            if held is None or slot in passed or (is_config(held.value) and self._is_void(held)):
                values.append((slot, NO_OP))
                continue
            values.append((slot, held.value))
            if is_config(held.value):
                return values, True
        return values, False

    def _is_void(self, config: Accepted) -> bool:
        return any(
            slot > config.slot and held.ballot > config.ballot
            for slot, held in self._reported.items()
        )

    def _out_of_order(self, first: int, reign: Ballot, commit: int) -> set[int]:
        """Slots whose batches cannot have been chosen: the reigns of chosen batches never fall.

        Of two batches that contradict this order, the one accepted in the lower ballot was not
        chosen (docs/design/time.md has the proof). Proposing it again would be safe as far as
        slots go, but it carries a time of another leader's clock, and what the other batch has
        granted would end too soon.
        """
        passed: set[int] = set()
        kept = [(reign, self.ballot, 0)]
        for slot in range(first, self.last + 1):  # (what is told of those below may be out of date)
            held = self._reported.get(slot)
            own = NO_BALLOT if held is None else packed_in(held.value)
            if held is None or own == NO_BALLOT or own > held.ballot:
                continue  # nobody knows whose it is
            ballot = self.ballot if slot <= commit else held.ballot  # (it is above all of these)
            while own < kept[-1][0] and ballot > kept[-1][1] and len(kept) > 1:
                passed.add(kept.pop()[2])
            if own < kept[-1][0] and ballot < kept[-1][1]:
                passed.add(slot)
            else:
                kept.append((own, ballot, slot))
        return passed
