"""Which followers a leader asks at once, and what the others get a moment later (docs/thrift.md).

The leader asks as many servers as a majority takes, the *prompt* ones, and puts off what the
*spare* ones get. To the protocol this is a network on which some messages take a little longer.

Sources: Moraru et al., "There Is More Consensus in Egalitarian Parliaments" (2013), §6, where
sending to a quorum only is called thrifty; Lamport & Massa, "Cheap Paxos" (2004), for spare
acceptors that work only when others fail.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.environment import NEVER, Clock, Network
from paxon.actors.invariants import invariant
from paxon.actors.messages import P2A
from paxon.actors.settings import Settings

__all__ = ["Thrift"]

FIRST_TRIAL = 16
"""Answers that counted towards a majority, before the servers that gave most of them are prompt."""
LONGEST_TRIAL = 1 << 14
"""Each time that the prompt ones were late, the next choice takes twice as many; at most this."""
RECONSIDER_BEATS = 100
"""Heartbeats after which the prompt servers are chosen anew: another may be quicker by now. If they
were asked and never late in that time, what was held against them before is forgotten."""
MOST_BYTES = 256 << 10
"""What is put off at most; with this much a burst of its own is worth it anyway."""


class Thrift:
    """Of one reign: it delays some P2As, and is told what was answered. The rest is bookkeeping."""

    def __init__(
        self, settings: Settings, others: Sequence[ServerId], voters: Sequence[ServerId]
    ) -> None:
        """Only `voters` among the others can be prompt."""
        # A heartbeat takes with it what was put off: with a longer delay hardly anything would be
        # left of which to see whether the prompt servers are in time.
        self._delay = min(settings.thrifty_delay, settings.heartbeat_interval / 2)
        self._others = tuple(others)
        self._voters = tuple(voters)
        self._needed = (len(self._voters) + 1) // 2
        self._used = self._delay > 0 and 0 < self._needed < len(self._others)
        self._trial = FIRST_TRIAL
        self._watching: set[ServerId] = set()
        """Those that hold watches: they hear of each slot at once in any case, so let it count."""
        self.put_off: list[P2A] = []
        """What the spare servers get later, in the order of its proposal."""
        self._put_off_bytes = 0
        self.ask_everyone()

    def ask_everyone(self) -> None:
        """All are asked at once until it is known who answers soonest. (Nothing is put off now.)"""
        self.prompt: tuple[ServerId, ...] = self._others
        self.spare: tuple[ServerId, ...] = ()
        self.choosing = self._used
        self._useful = dict.fromkeys(self._voters, 0)
        self._in_time = False
        """Whether those who are prompt now were ever seen to be in time."""
        self._beats_left = RECONSIDER_BEATS
        self.p2as_due_at = NEVER
        """When what is put off has to leave, and `first_slot` to be chosen: monotonic seconds."""
        self.first_slot = 0
        self.round = 0
        """The last round that only the prompt servers were asked for."""
        self.round_due_at = NEVER
        """When that round has to be confirmed."""

    # --- who is prompt ---------------------------------------------------------------------------

    def count_useful(self, server: ServerId) -> None:
        """While `choosing`: an answer of `server` came before a majority had answered."""
        useful = self._useful
        if server not in useful:
            return
        useful[server] += 1
        if sum(useful.values()) < self._trial:
            return
        favoured: set[ServerId] = set()
        if self._trial == FIRST_TRIAL:  # else whoever was relied upon was late
            enough = FIRST_TRIAL // (2 * len(self._voters)) + 1  # half of an equal part
            favoured = {other for other in self._watching if useful.get(other, 0) >= enough}
        ranked = sorted(
            self._voters, key=lambda other: (other not in favoured, -useful[other], other)
        )
        if useful[ranked[self._needed - 1]] > 0:  # else too few have answered at all
            self.rely_on(ranked[: self._needed])

    def rely_on(self, prompt: Sequence[ServerId]) -> None:
        """From now on only these are asked at once."""
        self.prompt = tuple(sorted(prompt))
        self.spare = tuple(other for other in self._others if other not in prompt)
        self.choosing = False

    def forget(self, server: ServerId) -> bool:
        """Its connection has ended: how it answered until now no longer counts.

        True if it is among the prompt ones that are relied upon.
        """
        if server in self._useful:
            self._useful[server] = 0
        return bool(self.spare) and server in self.prompt

    def holds_watches(self, server: ServerId, holds: bool) -> bool:
        """What a server says of itself; True if it is time to choose the prompt servers anew."""
        if holds == (server in self._watching):
            return False
        self._watching ^= {server}
        return holds and server in self.spare and server in self._voters

    def finds_late(self, now: float, undecided: Container[int], confirmed: int) -> bool:
        """Look at what is due: whether the prompt servers have not answered within the delay.

        `undecided` are the slots that are not chosen yet, `confirmed` is the last confirmed round.
        """
        if now < min(self.p2as_due_at, self.round_due_at):
            return False
        late = False
        if now >= self.p2as_due_at:
            self.p2as_due_at = NEVER
            late = self.first_slot in undecided
        if now >= self.round_due_at:
            self.round_due_at = NEVER
            late = late or self.round > confirmed
        if late:
            self.were_late()
        else:
            self._in_time = True
        return late

    def were_late(self) -> None:
        """The prompt servers did not answer in time: look longer before choosing again."""
        self._trial = min(2 * self._trial, LONGEST_TRIAL)

    def count_beat(self) -> bool:
        """All are sent a heartbeat; True if it is time to choose the prompt servers anew."""
        if not self.spare:
            return False
        self._beats_left -= 1
        if self._beats_left > 0:
            return False
        if self._in_time:
            self._trial = FIRST_TRIAL
        return True

    # --- what the spare servers get later --------------------------------------------------------

    def send(self, network: Network, p2as: Sequence[P2A], clock: Clock) -> int:
        """Send a frame to the prompt servers, and to the spare ones a little later.

        Returns how many P2As have left.
        """
        network.broadcast(self.prompt, p2as)
        sent = len(p2as) * len(self.prompt)
        if self.spare and self._put_off_p2as(p2as, clock.monotonic()):
            sent += self.send_put_off(network, p2as[0].ballot)
        return sent

    def send_put_off(self, network: Network, promise: Ballot) -> int:
        """Send the spare servers what they have not got yet; returns how many P2As have left.

        Like any P2A it relies on the ballot alone, which is the durable promise. Before anything
        else that tells them a commit index, or they would ask for slots that are on their way.
        """
        p2as, self.put_off = self.put_off, []
        self._put_off_bytes = 0
        if p2as:
            invariant(p2as[0].ballot == promise, "P2A in ballot %s", p2as[0].ballot)
            network.broadcast(self.spare, p2as)
        return len(p2as) * len(self.spare)

    def _put_off_p2as(self, p2as: Sequence[P2A], now: float) -> bool:
        """Keep them for the spare servers; whether so much waits that it has to leave now.

        `now` is when the prompt servers were sent them.
        """
        if self.p2as_due_at == NEVER:
            self.p2as_due_at = now + self._delay
            self.first_slot = p2as[0].slot
        self.put_off.extend(p2as)
        for p2a in p2as:
            self._put_off_bytes += len(p2a.value)
        if self._put_off_bytes < MOST_BYTES:
            return False
        self.p2as_due_at = NEVER  # so much may take longer than the delay
        return True

    def expect_round(self, number: int, now: float) -> None:
        """Only the prompt servers are asked for a round. (There is one such round at a time.)"""
        self.round = number
        self.round_due_at = now + self._delay
