"""The application that has this server in its process: what it tells and asks."""

from __future__ import annotations

from typing import Any

import pykka

from paxon.actors.ballot import ServerId
from paxon.actors.embedding import AskFigures, Execute, Figures, HandOver, NotLeading, fail, settle
from paxon.actors.limits.allowances import RETRY_AFTER
from paxon.actors.messages import Entry, ReplyStatus, overloaded
from paxon.actors.parts.host import Part
from paxon.actors.records.reign import Reign
from paxon.transport import Burst
from paxon.transport.log import logger

__all__ = ["Embedded"]


class Embedded(Part):
    """Takes commands of the application, which belong to no session, and its wish to stop."""

    def on_local(self, message: Any) -> Any:
        """`Execute` a command, `HandOver` the lead, `AskFigures`, or nothing that we know."""
        if isinstance(message, HandOver):
            return self._hand_over(message)
        if isinstance(message, Execute):
            return self._execute(message)
        if isinstance(message, AskFigures) and self._host._open:
            return Figures(self._host.describe(), self._host.latencies.all())
        logger.warning("server {}: unexpected message {!r}", self._settings.server, message)
        return None

    def _execute(self, message: Execute) -> pykka.Future[bytes]:
        host = self._host
        future: pykka.Future[bytes] = host._create_future()
        error = message.refusal(self._application.agreed.max_command_bytes)
        reign = host._serves() if host._open else None
        if error is not None or reign is None:
            fail(future, error or self._not_leading(tried=False))
        elif host.reception.is_full(reign):
            settle(future, ReplyStatus.OVERLOADED, overloaded("too much is waiting", RETRY_AFTER))
        elif reason := self._application.check(message.command):
            settle(future, ReplyStatus.INVALID, reason)
        else:
            number = host._random.getrandbits(62)
            reign.futures[number] = future
            reign.pending.add(Entry(0, number, 0, 0, message.command))
            host.step(Burst())
        return future

    def _hand_over(self, message: HandOver) -> ServerId:
        host = self._host
        if not host._open:
            return 0
        host._now = self._outbox.now = host._clock.monotonic()  # (the last step is a while ago)
        if message.heir:
            hopes = (host.leader or host._following.heir) and not host._hears_leader()
            return message.heir if hopes else 0
        heir = host.hand_over()
        host._flush()
        return 0 if isinstance(heir, str) else heir

    def _not_leading(self, *, tried: bool) -> NotLeading:
        host = self._host
        address = host.places.client_address(host.leader)
        return NotLeading(self._settings.server, host.leader, address, tried=tried)

    def fail_futures(self, reign: Reign) -> None:
        """Tell those that wait for a command's future that this reign is over."""
        futures, reign.futures = reign.futures, {}
        for future in futures.values():
            fail(future, self._not_leading(tried=True))
