"""What tests may ask each server about its log, and what must hold over all logs.

The course's four probes: `status(slot)`, `command(slot)`, `first_non_cleared()`,
`last_non_empty()`. A `LogProbe` fetches all slots of a server at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import zmq

from paxon.actors import ServerId
from paxon.actors.codecs import client_codec
from paxon.actors.messages import (
    SlotReply,
    SlotRequest,
)

__all__ = ["Log", "LogProbe", "check_logs"]

AT_ONCE = 500
"""Slots asked for in one frame."""


@dataclass(slots=True)
class Log:
    """A server's log as it was at one moment (if that server was at rest)."""

    server: ServerId
    slots: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """Status and value of the slots that are neither cleared nor beyond the last."""
    _first: int = 1
    _last: int = 0

    def status(self, slot: int) -> str:
        """EMPTY, ACCEPTED, CHOSEN or CLEARED."""
        if slot < self._first:
            return "CLEARED"
        return self.slots[slot][0] if slot in self.slots else "EMPTY"

    def command(self, slot: int) -> bytes | None:
        """What is in the slot; None if nothing, or nothing any more."""
        return self.slots[slot][1] if slot in self.slots else None

    def first_non_cleared(self) -> int:
        return self._first

    def last_non_empty(self) -> int:
        return self._last

    def note(self, reply: SlotReply) -> None:
        """Take in an answer about one slot."""
        self._first, self._last = reply.first_non_cleared, reply.last_non_empty
        if reply.status in ("ACCEPTED", "CHOSEN"):
            self.slots[reply.slot] = (reply.status, reply.value)
        for gone in [slot for slot in self.slots if slot < self._first]:
            del self.slots[gone]


class LogProbe:
    """Asks servers what is in their slots; for one thread."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Args: `addresses` are those for clients, in the order of the servers' ids."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._codec = client_codec()
        self._sockets: dict[ServerId, zmq.Socket[bytes]] = {}
        for server, address in enumerate(addresses, start=1):
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(address)
            self._sockets[server] = socket
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for socket in self._sockets.values():
            socket.close()
        self._context.term()

    def slot(self, server: ServerId, slot: int) -> SlotReply:
        """What one server says about one slot."""
        return self._ask(server, [slot], 5.0)[0]

    def log(self, server: ServerId) -> Log:
        """A server's whole log."""
        log = Log(server)
        log.note(self.slot(server, 0))
        slot = log.first_non_cleared()
        while slot <= log.last_non_empty():
            wanted = range(slot, min(slot + AT_ONCE, log.last_non_empty() + 1))
            for reply in self._ask(server, wanted, 10.0):
                log.note(reply)
            slot = wanted.stop
        return log

    def logs(self) -> dict[ServerId, Log]:
        """All servers' logs."""
        return {server: self.log(server) for server in self._sockets}

    def _ask(self, server: ServerId, slots: Sequence[int], seconds: float) -> list[SlotReply]:
        first = self._number
        self._number += len(slots)
        socket = self._sockets[server]
        requests = [SlotRequest(first + i, slot) for i, slot in enumerate(slots)]
        socket.send(self._codec.encode(requests))
        found: list[SlotReply] = []
        end = time.monotonic() + seconds
        while len(found) < len(slots):
            left = end - time.monotonic()
            assert left > 0, f"server {server} does not say what is in its slots"
            if socket.poll(math.ceil(left * 1000)):
                _, _, replies = self._codec.decode(socket.recv())
                found += [r for r in replies if isinstance(r, SlotReply) and r.id >= first]
        return found


def check_logs(logs: Mapping[ServerId, Log]) -> int:
    """Fail unless the logs are those of one history; how many slots are chosen by what they show.

    Take them while nothing moves, or a slot may be told of in two states.
    """
    majority = len(logs) // 2 + 1
    last = max(log.last_non_empty() for log in logs.values())
    chosen = 0
    for slot in range(1, last + 1):
        status = {server: log.status(slot) for server, log in logs.items()}
        values = {log.command(slot) for log in logs.values() if log.status(slot) == "CHOSEN"}
        assert len(values) <= 1, f"slot {slot} is chosen with {len(values)} values: {status}"
        held = sum(1 for log in logs.values() if log.status(slot) != "EMPTY")
        if values or "CLEARED" in status.values():
            chosen += 1
            assert held >= majority, f"slot {slot} is chosen without a majority: {status}"
        if values:
            agreeing = sum(
                1
                for log in logs.values()
                if log.status(slot) == "CLEARED" or log.command(slot) in values
            )
            assert agreeing >= majority, f"slot {slot} is chosen by a minority: {status}"
        if "CLEARED" in status.values():
            # Cleared anywhere means executed everywhere, and so chosen wherever it is still held.
            wrong = [server for server, what in status.items() if what in ("EMPTY", "ACCEPTED")]
            assert not wrong, f"slot {slot} was cleared too early: {status}"
    return chosen
