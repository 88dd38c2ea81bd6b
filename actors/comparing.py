"""Comparing what servers have executed (docs/digests.md): the handlers; the data is in digests.py.

A leader compares the hashes in its followers' heartbeat replies with its own. Whoever finds a
difference asks all for all that they keep, and so does whoever is asked and differs. Each server
decides for itself alone: it stops if a majority of voters agree on another hash than its own.
"""

from __future__ import annotations

from abc import abstractmethod

from paxon.actors.ballot import ServerId
from paxon.actors.confirming import Confirming
from paxon.actors.digests import Comparison, Diverged, Inquiry, SnapshotCheck, Verdict
from paxon.actors.environment import Environment
from paxon.actors.messages import DigestReply, DigestRequest, SnapshotOffer
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.transport.log import logger

__all__ = ["Comparing"]

NEVER = float("inf")

ANSWER_SECONDS = 1.0
"""How long an inquiry waits for those who do not answer."""
FIRST_GAP, LONGEST_GAP = 1.0, 60.0
"""Seconds between two inquiries about a difference that stays: each time twice as long."""


class Comparing(Confirming):
    """Knows how its execution compares with the others'."""

    def __init__(self, settings: Settings, machine: StateMachine, environment: Environment) -> None:
        super().__init__(settings, machine, environment)
        self._comparison = Comparison()
        self._inquiry: Inquiry | None = None
        self._inquire_again_at = -NEVER
        self._inquiry_gap = FIRST_GAP
        self._snapshot_check: SnapshotCheck | None = None
        self._alarm = ""
        self._alarm_until = -NEVER

    @property
    def alarm(self) -> str:
        """What is wrong, if servers differ and this one goes on: a sentence for `paxon status`.

        While a difference stays it is found again and again.
        """
        return self._alarm if self._clock.monotonic() < self._alarm_until else ""

    def _raise_alarm(self, text: str) -> None:
        self._counters["digest_alarms"] += 1
        self._alarm = text
        self._alarm_until = self._now + 2 * self._inquiry_gap

    def _compare(self, server: ServerId, version: int, slot: int, digest: bytes) -> None:
        """A follower says its hash after `slot`."""
        if self._comparison.heard(server, version, slot, digest, self.application.chain):
            self._inquire(slot)

    def _inquire(self, slot: int) -> None:
        """Ask everybody for everything, but not all the time.

        Our own hash after `slot`, where somebody was found to differ, lets others find out that
        they do: the last one that we have they may not have reached.
        """
        if self._inquiry is not None or self._now < self._inquire_again_at:
            return
        self._counters["inquiries"] += 1
        self._inquiry = Inquiry(self._now + ANSWER_SECONDS)
        chain = self.application.chain
        question = DigestRequest(chain.version, chain.first, chain.last, slot, chain.at(slot))
        self._to_all.append(question)

    def on_digest_request(self, request: DigestRequest, sender: ServerId) -> None:
        """Say what is known; if the sender's own hash is another than ours, ask on."""
        chain = self.application.chain
        first, hashes = chain.between(request.first_slot, request.last_slot)
        self._send(sender, DigestReply(chain.version, first, hashes, self.voting))
        if chain.differs(request.version, request.slot, request.digest):
            self._inquire(request.slot)

    def on_digest_reply(self, reply: DigestReply, sender: ServerId) -> None:
        """An answer to an inquiry, or about a snapshot that is being fetched."""
        check = self._snapshot_check
        if check is not None:
            check.heard(sender, reply)
            if check.objections or not check.unheard:
                self._snapshot_settled()
        inquiry = self._inquiry
        if inquiry is None:
            return
        inquiry.answers[sender] = reply
        verdict = inquiry.verdict(self.application.chain, self._majority)
        if verdict.contradicted:
            self._stop_as_contradicted(verdict)
        if len(inquiry.answers) == len(self._others):
            self._conclude(verdict)

    def _conclude(self, verdict: Verdict) -> None:
        """Nobody else is waited for, and no majority contradicts this server."""
        self._inquiry = None
        self._inquire_again_at = self._now + self._inquiry_gap
        if not verdict.differ:
            self._inquiry_gap, self._alarm = FIRST_GAP, ""
            return
        self._inquiry_gap = min(2 * self._inquiry_gap, LONGEST_GAP)
        self._raise_alarm(
            f"{_servers(verdict.differ)} executed something else than server "
            f"{self.settings.server} {_since(verdict)}"
        )
        logger.error(
            "ALARM: {}; no majority says that this one is wrong, so it goes on", self.alarm
        )

    def _stop_as_contradicted(self, verdict: Verdict) -> None:
        reason = (
            f"server {self.settings.server} executed something else {_since(verdict)} than "
            f"{_servers(verdict.differ)}, and they are the majority: its state is wrong. Empty its "
            f"directory and start it once with --rejoin; if it happens again, its memory is "
            f"faulty or the state machine is not deterministic"
        )
        self._storage.condemn(reason)
        raise Diverged(reason)

    @abstractmethod
    def _snapshot_settled(self) -> None:
        """All have said what they know of the snapshot that is being fetched."""

    def _inquiry_deadline(self) -> float:
        return NEVER if self._inquiry is None else self._inquiry.until

    def _on_inquiry_timer(self) -> None:
        inquiry = self._inquiry
        if inquiry is not None and self._now >= inquiry.until:
            self._conclude(inquiry.verdict(self.application.chain, self._majority))

    # --- snapshots of others ---------------------------------------------------------------------

    def _check_snapshot(self, offer: SnapshotOffer, sender: ServerId) -> None:
        """Ask those who have not vouched for a snapshot whether they know another hash for it."""
        held = self._snapshot_check
        if held is not None and held.offer == offer and held.unheard:
            ask = sorted(held.unheard)
        else:
            ask = [s for s in self._others if s != sender and s not in offer.vouched]
            wait = self.settings.election_timeout_min
            self._snapshot_check = SnapshotCheck(offer, ask, self._now + wait)
        question = DigestRequest(offer.digest_version, offer.slot, offer.slot, 0, b"")
        for server in ask:
            self._send(server, question)

    def _snapshot_is_contested(self) -> bool:
        """Whether a voter holds another hash for the snapshot that has come: alarm if so."""
        check = self._snapshot_check
        if check is None or not check.objections:
            return False
        self._raise_alarm(
            f"{_servers(sorted(check.objections))} executed something else up to slot "
            f"{check.offer.slot} than the sender of a snapshot: it is not taken over"
        )
        if self._now >= self._inquire_again_at:
            self._inquire_again_at = self._now + FIRST_GAP
            logger.error("ALARM: {}", self._alarm)
        return True


def _since(verdict: Verdict) -> str:
    return f"from slot {verdict.from_slot} on" if verdict.exact else (
        f"from slot {verdict.from_slot} on or earlier"
    )  # fmt: skip


def _servers(servers: list[ServerId]) -> str:
    numbers = ", ".join(map(str, servers))
    return f"server {numbers}" if len(servers) == 1 else f"servers {numbers}"
