"""Bugs to plant in what bounds clients; the simulator's runs about bounds find them."""

from __future__ import annotations

from typing import Any

from paxon.actors.execution.application import Application
from paxon.actors.execution.sessions import Reply, Session, SessionTable
from paxon.actors.limits.allowances import RETRY_AFTER
from paxon.actors.limits.turns import ClientTurns, Waiting
from paxon.actors.messages import (
    ClientMessage,
    Command,
    CommandReply,
    Entry,
    Query,
    ReplyStatus,
    overloaded,
)
from paxon.actors.server import PaxosServer
from tests.search.planted import Original, PlantedBug, planted

__all__ = ["BOUNDS"]

BOUNDS: list[PlantedBug] = []


def _plant(name: str, description: str, *patches: Any) -> None:
    BOUNDS.append(planted(name, description, *patches))


def _boundless_first(original: Original) -> Any:
    def recover(self: PaxosServer) -> None:
        original(self)
        if self.settings.server == 1:
            self.application.sessions.is_full = lambda session, seq: False  # type: ignore[method-assign]

    return recover


_plant(
    "a bound on some servers only",
    "one server executes what the others put off until replies are acknowledged",
    (PaxosServer, "_recover", _boundless_first),
)


def _refuse_late(original: Original) -> Any:
    def on_command(self: PaxosServer, command: Command, client: bytes) -> None:
        reign = self._reign
        before = 0 if reign is None else reign.pending.bytes
        original(self, command, client)
        key = (command.session, command.seq)
        session = self.application.sessions.get(command.session)
        if reign is None or session is None:
            return
        if reign.pending.bytes > before and session.kept:
            del reign.waiting[key]
            payload = overloaded("acknowledge some replies first", RETRY_AFTER)
            self._outbox.reply(client, CommandReply(*key, ReplyStatus.OVERLOADED, payload))

    return on_command


_plant(
    "refuse what is in the log already",
    "a command is answered as overloaded, and so without effect, after it was proposed",
    (PaxosServer, "on_command", _refuse_late),
)


def _drop_the_oldest(original: Original) -> Any:
    def is_full(self: SessionTable, session: Session, seq: int) -> bool:
        while original(self, session, seq) and session.replies:
            reply = session.replies.pop(min(session.replies))
            freed = len(reply.payload) + 64
            session.kept -= freed
            self.kept -= freed
        return False

    return is_full


_plant(
    "drop a reply that nobody has acknowledged",
    "a session that is full makes room for the next reply by forgetting its oldest",
    (SessionTable, "is_full", _drop_the_oldest),
)


def _count_from_here(original: Original) -> Any:
    def load(self: SessionTable, dump: bytes) -> None:
        original(self, dump)
        self.kept = 0

    return load


_plant(
    "forget at a restart how much is kept",
    "who starts from a snapshot counts the replies kept for all sessions from nothing",
    (SessionTable, "load", _count_from_here),
)


def _keep_the_refusal(original: Original) -> Any:
    def execute_entry(self: Application, slot: int, index: int, entry: Entry) -> Reply:
        reply: Reply = original(self, slot, index, entry)
        session = self.sessions.get(entry.session)
        if reply.status == ReplyStatus.OVERLOADED and session is not None:
            self.sessions.keep(session, entry.seq, reply)
        return reply

    return execute_entry


_plant(
    "keep a refusal as the reply",
    "what was put off is answered so for ever, though it comes again",
    (Application, "_execute_entry", _keep_the_refusal),
)


def _never_reset(original: Original) -> Any:
    def execute_batch(self: Application, slot: int, batch: Any) -> Any:
        self.sessions.advance(batch.time)
        results = []
        for index, entry in enumerate(batch.entries):
            results.append((entry, self._execute_entry(slot, index, entry)))
        self.timer.look(slot, commands=True)
        return results

    return execute_batch


_plant(
    "count the replies of a slot from slot to slot",
    "what the replies of earlier slots came to counts on, but not after a restart",
    (Application, "_execute_batch", _never_reset),
)


def _take_as_stale(original: Original) -> Any:
    def take(self: ClientTurns, waiting: Waiting) -> ClientMessage:
        request: ClientMessage = original(self, waiting)
        return Query(request.id, "stale", request.query) if isinstance(request, Query) else request

    return take


_plant(
    "answer a read that waited from whatever there is",
    "a read that had to wait for its turn is not confirmed any more",
    (ClientTurns, "take", _take_as_stale),
)
