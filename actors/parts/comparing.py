"""Comparing what was executed with the other servers (rule 15, docs/digests.md)."""

from __future__ import annotations

from collections.abc import Callable

from paxon.actors.ballot import ServerId
from paxon.actors.execution.digests import Diverged, Doubts, SnapshotCheck, Verdict
from paxon.actors.messages import DigestReply, DigestRequest
from paxon.actors.parts.host import Host, Part
from paxon.transport.log import logger

__all__ = ["Comparing"]


class Comparing(Part):
    """Asks the others where hashes differ; stops this server if a majority contradicts it."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.doubts = Doubts()
        self.hear_of_snapshot: Callable[[DigestReply, ServerId], None] = lambda reply, sender: None
        """Another server says which hash it has for a snapshot that is being fetched."""

    def inquire(self, slot: int) -> None:
        """Somebody was found to differ after `slot`: ask everybody, but not all the time."""
        question = self.doubts.ask(slot, self._application.chain, self._outbox.now)
        if question is not None:
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
        self.hear_of_snapshot(reply, sender)
        inquiry = self.doubts.inquiry
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
        if self.doubts.conclude(verdict, self._settings.server, self._outbox.now):
            self._counters["digest_alarms"] += 1
            logger.error(
                "ALARM: {}; no majority says that this one is wrong, so it goes on",
                self.doubts.alarm(self._outbox.now),
            )

    def on_timer(self) -> None:
        """Perhaps not all have answered, and nobody else is waited for any longer."""
        inquiry = self.doubts.inquiry
        if inquiry is not None and self._outbox.now >= inquiry.until:
            self._conclude(inquiry.verdict(self._application.chain, self._host._majority))

    def contest(self, check: SnapshotCheck) -> None:
        """A voter holds another hash for the snapshot that has come."""
        self._counters["digest_alarms"] += 1
        if self.doubts.contest(check, self._outbox.now):
            logger.error("ALARM: {}", self.doubts.alarm(self._outbox.now))
