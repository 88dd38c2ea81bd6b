"""How a server takes in its clients' requests: for a moment a step, in turns (actors/turns.py).

Split off for reading in a sitting only: there is one server class, and this is part of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from paxon.actors.allowances import CLIENT_SECONDS, FRAME_BYTES, LARGEST_REPLY, RETRY_AFTER
from paxon.actors.environment import ClientToken, Environment, ServerBurst
from paxon.actors.lifecycle import ServerLifecycle
from paxon.actors.messages import (
    SETTINGS,
    ClientMessage,
    CommandReply,
    Entry,
    Overloaded,
    QueryReply,
    ReplyStatus,
    SessionOpened,
    retry_after,
)
from paxon.actors.sessions import Reply
from paxon.actors.settings import Settings
from paxon.actors.turns import ClientTurns, Waiting

__all__ = ["Reception"]

BURST_MESSAGES = 1024
"""Requests that one step handles at most."""
TURN_MESSAGES = 32
"""Requests of one client that are handled in a row while others wait."""
PAUSE = 0.001
"""Seconds after which a client is looked at again that could not be served."""
SLOW_READER_PAUSE = 0.02
"""The same for a client that does not read its replies."""

LARGE_REPLY = 4096
"""Replies to commands from this size on count towards what a step replies, in bytes."""

RequestHandler = Callable[[Any, ClientToken], None]


class Reception(ServerLifecycle):
    """Serves clients within bounds, and throws away what goes beyond."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._client_handlers: dict[type, RequestHandler] = {}
        self._turns = ClientTurns()
        self._language = ""
        """That of the state machine's commands."""
        self._spent = False
        """Clients have had their share of this step."""
        self._clients_until = 0.0
        self._worked_at = 0.0
        """When the request before was done, as far as the clock was read."""

    @abstractmethod
    def _takes_in(self, request: ClientMessage) -> bool:
        """Whether a request can be handled now, or had better wait."""

    def _serve_clients(self, burst: ServerBurst) -> None:
        """Handle the burst's requests, or let them wait behind others, and those that waited."""
        for client in burst.gone:
            self._turns.drop(client)
        for client in burst.refused:
            self._throw_away(client, "a frame holds too many messages")
        clients = burst.clients
        self._allow_time()
        handled = 0
        for _, requests in clients:
            handled += len(requests)
        self._counters["client_messages_received"] += handled
        if handled > BURST_MESSAGES or self._turns.waiting:
            self._let_wait(clients)
            self._take_turns()
            return
        if not clients:
            return
        self._turns.heard(clients[0][0], self._now)
        if len(clients) > 1:
            self._turns.heard(clients[-1][0], self._now)
        handlers = self._client_handlers  # the usual case: all of it at once
        for index, (client, requests) in enumerate(clients):
            left = iter(requests)
            for request in left:
                handlers[type(request)](request, client)
                if self._spent:
                    self._let_wait([(client, list(left)), *clients[index + 1 :]])
                    return

    def _allow_time(self) -> None:
        """From now on clients are served for a moment."""
        self._spent = self._replied_bytes >= FRAME_BYTES
        self._worked_at = self._clock.monotonic()
        self._clients_until = self._worked_at + CLIENT_SECONDS

    def _count_work(self, client: ClientToken, size: int) -> None:
        """A request was answered at once, with so many bytes: is the step's share spent?"""
        now = self._clock.monotonic()
        took, self._worked_at = now - self._worked_at, now
        self._replied_bytes += size
        if now >= self._clients_until or self._replied_bytes >= FRAME_BYTES:
            self._spent = True
            if took >= CLIENT_SECONDS / 2:
                self._turns.took(client, took, now)

    def _let_wait(self, clients: Sequence[tuple[ClientToken, Sequence[ClientMessage]]]) -> None:
        for client, requests in clients:
            self._turns.heard(client, self._now)
            if requests and not self._turns.add(client, requests):
                self._throw_away(client, "too many requests are waiting")

    def _throw_away(self, client: ClientToken, reason: str) -> None:
        """Say that something was, once a burst for each client."""
        self._counters["overloaded"] += 1
        queued = self._to_client.setdefault(client, [])
        if not queued or type(queued[-1]) is not Overloaded:
            queued.append(Overloaded(round(RETRY_AFTER * 1000), reason))

    def _take_turns(self) -> None:
        """Serve those that waited, in turns, until the step's share is spent."""
        turns = self._turns
        handled = 0
        now = self._worked_at
        while not self._spent and (turn := turns.next(now)) is not None:
            client, waiting = turn
            if self._network.congested(client):
                waiting.not_before = now + SLOW_READER_PAUSE
                continue
            began = now
            served = self._serve_turn(client, waiting)
            handled += served
            now = self._worked_at = self._clock.monotonic()
            turns.took(client, now - began, now)
            if served == 0:  # it has to wait for something
                waiting.not_before = now + PAUSE
            if now >= self._clients_until or handled >= BURST_MESSAGES:
                self._spent = True

    def _serve_turn(self, client: ClientToken, waiting: Waiting) -> int:
        """Handle some of one client's requests; returns how many."""
        for served in range(TURN_MESSAGES):
            if not waiting.requests or not self._takes_in(waiting.requests[0]) or self._spent:
                return served
            request = self._turns.take(waiting)
            self._client_handlers[type(request)](request, client)
        return TURN_MESSAGES

    def _answer(self, client: ClientToken, entry: Entry, reply: Reply) -> None:
        if len(reply.payload) > LARGE_REPLY:
            self._replied_bytes += len(reply.payload)
        if entry.session == 0:
            if entry.acked == SETTINGS:
                self._reply(client, QueryReply(entry.seq, reply.status, reply.payload))
                return
            if reply.status != ReplyStatus.OK:
                seconds, reason = retry_after(reply.payload)
                self._reply(client, Overloaded(round(seconds * 1000), reason))
                return
            session = int.from_bytes(reply.payload, "big")
            opened = SessionOpened(entry.seq, session, self._language)
            self._reply(client, opened)
            return
        if len(reply.payload) > LARGEST_REPLY:  # executed, but the client can only be told that
            text = b"the reply has %d bytes, too many to send" % len(reply.payload)
            reply = Reply(ReplyStatus.FORGOTTEN, text)
        self._reply(client, CommandReply(entry.session, entry.seq, reply.status, reply.payload))
