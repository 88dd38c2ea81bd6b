"""Comparing what was executed with the other servers (rule 15, docs/design/digests.md)."""

from __future__ import annotations

from paxon.actors.ballot import ServerId, in_list
from paxon.actors.environment import NEVER
from paxon.actors.execution.digests import Diverged, Inquiry, SnapshotCheck, Verdict
from paxon.actors.messages import DigestReply, DigestRequest
from paxon.actors.parts.host import Host, Part
from paxon.transport.log import logger

__all__ = ["Comparing"]

ANSWER_SECONDS = 0.25
"""How long an inquiry about hashes waits for answers, until it asks those who owe one again …"""
ASKED = 4
"""… or, after so many times, goes by those that have come."""
FIRST_GAP, LONGEST_GAP = 1.0, 60.0
"""Seconds between two inquiries about a difference that stays: each time twice as long."""


class Comparing(Part):
    """Asks the others where hashes differ; stops this server if a majority contradicts it."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.inquiry: Inquiry | None = None
        """The one under way."""
        self._again_at = -NEVER
        """When to ask again at the earliest, monotonic seconds."""
        self._gap = FIRST_GAP
        self._alarm, self._alarm_until = "", -NEVER

    def inquire(self, slot: int) -> None:
        """Somebody was found to differ after `slot`: ask everybody, but not all the time.

        The own hash after that slot lets others find out that they do: the last one that this
        server has they may not have reached.
        """
        chain, now = self._application.chain, self._outbox.now
        if self.inquiry is None and now >= self._again_at:
            question = DigestRequest(chain.version, chain.first, chain.last, slot, chain.at(slot))
            self.inquiry = Inquiry(question, now + ANSWER_SECONDS)
            self._counters["inquiries"] += 1
            self._outbox.to_all.append(question)

    def on_digest_request(self, request: DigestRequest, sender: ServerId) -> None:
        """Say what is known; if the sender's own hash is another than ours, ask on."""
        chain = self._application.chain
        first, hashes = chain.between(request.first_slot, request.last_slot)
        reply = DigestReply(chain.version, first, hashes, self._host.is_member)
        self._outbox.send(sender, reply)
        if chain.differs(request.version, request.slot, request.digest):
            self.inquire(request.slot)

    def on_digest_reply(self, reply: DigestReply, sender: ServerId) -> None:
        """An answer to an inquiry, or about a snapshot that is being fetched."""
        self._host.snapshotting.hear(reply, sender)
        inquiry = self.inquiry
        if inquiry is None:
            return
        inquiry.answers[sender] = reply
        verdict = inquiry.verdict(self._application.chain, self._host._majority)
        if verdict.contradicted:
            self._stop_as_contradicted(verdict)
        if len(inquiry.answers) == len(self._host._others):
            self._conclude(verdict)

    def _stop_as_contradicted(self, verdict: Verdict) -> None:
        reason = verdict.why_stopped(self._settings.server)
        self._host._storage.condemn(reason)
        raise Diverged(reason)

    def _conclude(self, verdict: Verdict) -> None:
        """Nobody else is waited for, and no majority contradicts this server."""
        self.inquiry = None
        self._again_at = self._outbox.now + self._gap
        if not verdict.differ:
            self._gap, self._alarm = FIRST_GAP, ""
            return
        self._gap = min(2 * self._gap, LONGEST_GAP)
        self._raise(verdict.alarm(self._settings.server))
        logger.error(
            "ALARM: {}; no majority says that this one is wrong, so it goes on", self._alarm
        )

    def on_timer(self) -> None:
        """Perhaps not all have answered: what was asked may be lost, or they are down."""
        inquiry, now = self.inquiry, self._outbox.now
        if inquiry is None or now < inquiry.until:
            return
        if inquiry.asked >= ASKED:
            self._conclude(inquiry.verdict(self._application.chain, self._host._majority))
            return
        inquiry.asked += 1
        inquiry.until = now + ANSWER_SECONDS
        for server in self._host._others:
            if server not in inquiry.answers:
                self._outbox.send(server, inquiry.question)

    def contest(self, check: SnapshotCheck) -> None:
        """A voter holds another hash for the snapshot that has come."""
        self._raise(
            f"{in_list(sorted(check.objections))} executed something else up to slot "
            f"{check.offer.slot} than the sender of a snapshot: it is not taken over"
        )
        if self._outbox.now >= self._again_at:
            self._again_at = self._outbox.now + FIRST_GAP
            logger.error("ALARM: {}", self._alarm)

    def _raise(self, alarm: str) -> None:
        self._counters["digest_alarms"] += 1
        self._alarm, self._alarm_until = alarm, self._outbox.now + 2 * self._gap

    def alarm(self, now: float) -> str:
        """The alarm as a sentence for `paxon status`; "" if there is none, or no more.

        While a difference stays it is found again and again.
        """
        return self._alarm if now < self._alarm_until else ""
