"""Requests that are not for the leader: stale reads, for any server, and questions for one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from paxon.actors.messages import SlotReply, StatusReply
from paxon.kvstore.client.agreement import Question
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.client.requests import Request, Ticket

__all__ = ["SideRequests"]


class SideRequests:
    """Each is asked again, after a growing interval, until it is answered or dropped."""

    def __init__(self, servers: Sequence[str], options: CoreOptions, first: int) -> None:
        """Args: the client's list of addresses, its options, and with which server to begin."""
        self._servers = servers
        self._options = options
        self._turn = first
        """Counts through the servers: stale reads stay with one while it answers."""
        self._requests: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))

    def reads(self) -> dict[int, Request]:
        """Those that any server may answer."""
        return {n: request for n, request in self._requests.items() if not request.address}

    def add(self, request: Request) -> None:
        """Take in a request; with an `address` it is for that server only."""
        self._requests[request.number] = request

    def ask(
        self, address: str, number: int, ticket: Ticket[Any, Any], what: int | Question | None
    ) -> None:
        """Ask one server how it is, or (if given) what is in one of its slots, or of members."""
        if what is None:
            request = Request("status", number, b"", [ticket])
        elif isinstance(what, int):
            request = Request("slot", number, what.to_bytes(8, "big"), [ticket])
        else:
            request = Request("members", what.id, msgspec.msgpack.encode(what), [ticket])
        request.address = address
        ticket.request = request
        self.add(request)

    def told(self, address: str, reply: StatusReply | SlotReply) -> None:
        """A server answers what it was asked."""
        request = self._requests.get(reply.id)
        if request is not None and request.address == address:
            del self._requests[reply.id]
            request.tickets[0].complete(reply, None, True)

    def get(self, number: int) -> Request | None:
        return self._requests.get(number)

    def remove(self, number: int) -> None:
        self._requests.pop(number, None)

    def clear(self) -> None:
        self._requests.clear()

    def due(self) -> float:
        """When to send something again."""
        return min(map(self._due, self._requests.values()), default=math.inf)

    def send(self, now: float, send: Callable[[str, Request], None]) -> None:
        """Send what is new or has been without an answer for too long."""
        current = self._server()
        due = [r for r in self._requests.values() if r.sent_to is None or now >= self._due(r)]
        if any(not request.address and request.sent_to == current for request in due):
            self._turn += 1
        for request in due:
            send(request.address or self._server(), request)

    def _server(self) -> str:
        return self._servers[self._turn % len(self._servers)]

    def _due(self, request: Request) -> float:
        options = self._options
        backoff = options.retry_first * 2.0 ** min(max(0, request.sends - 1), 10)
        return request.sent_at + min(backoff, options.retry_max)
