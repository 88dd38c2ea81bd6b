"""Ask every server how it is, without a session and without following leaders."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping

import msgspec
import zmq

from paxon.actors import ServerId
from paxon.actors.codecs import client_codec
from paxon.actors.messages import PortOfServers, StatusReply, StatusRequest
from paxon.kvstore.client.links import Secure
from paxon.kvstore.cluster.supervisor import ProcessState
from paxon.transport import Context, FrameError, dialled, takes_ipv6

__all__ = [
    "ServerStatus", "StatusProbe", "agreed_leader", "ask_status", "comparable_slot", "look_around",
]  # fmt: skip


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One server's row: what its process does, and what the server says of itself."""

    server: ServerId
    """Its id; 0 if only its address is known and it did not answer."""
    address: str
    """Where clients reach it."""
    state: ProcessState | None = None
    """What its process does; None for a server that this process does not supervise."""
    pid: int | None = None
    reason: str = ""
    """Why it failed, if it did."""
    reply: StatusReply | None = None
    """What the server answered; None if it did not answer in time."""


class StatusProbe:
    """Asks servers for their status; used by one thread, and can be used again and again."""

    def __init__(self, secure: Secure | None = None) -> None:
        self._secure = secure
        self._context = Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._codec = client_codec(pins=False)
        self._numbers = itertools.count(1)
        self.client_ports: dict[str, str] = {}
        """Of addresses that turned out to be ports for servers: where clients reach those."""

    def ask(
        self,
        addresses: Mapping[ServerId, str],
        timeout: float,
        *,
        state: bool = False,
        digest_slot: int = 0,
    ) -> dict[ServerId, StatusReply]:
        """The answers that came within `timeout` seconds, by the keys of `addresses`.

        `state`: each also computes its state's fingerprint; `digest_slot`: the slot after which to
        say the hash of what was executed, if not the last one.
        """
        number = next(self._numbers)
        question = self._codec.encode([StatusRequest(number, digest_slot, state)])
        poller = zmq.Poller()
        asked: dict[zmq.Socket[bytes], ServerId] = {}
        for server, address in addresses.items():
            socket = self._socket(address)
            asked[socket] = server
            poller.register(socket, zmq.POLLIN)
            try:
                socket.send(question, zmq.NOBLOCK)
            except zmq.Again:  # unreachable for so long that its queue is full
                continue
        answers: dict[ServerId, StatusReply] = {}
        end = time.monotonic() + timeout
        wrong = self.client_ports
        while len(answers) + sum(a in wrong for a in addresses.values()) < len(asked):
            remaining = end - time.monotonic()
            if remaining <= 0:
                break
            for socket, _ in poller.poll(math.ceil(remaining * 1000)):
                answer = self._receive(socket, number, addresses[asked[socket]])
                if answer is not None:
                    answers[asked[socket]] = answer
        return answers

    def _receive(self, socket: zmq.Socket[bytes], number: int, address: str) -> StatusReply | None:
        """The answer to question `number` if it is next; anything else is of an earlier one."""
        try:
            _, _, messages = self._codec.decode(socket.recv(zmq.NOBLOCK))
        except (zmq.Again, FrameError):
            return None
        for message in messages:
            if isinstance(message, StatusReply) and message.id == number:
                return message
            if isinstance(message, PortOfServers) and message.address:
                self.client_ports[address] = message.address
        return None

    def _socket(self, address: str) -> zmq.Socket[bytes]:
        socket = self._sockets.get(address)
        if socket is None:
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 16)
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
            self._sockets[address] = socket
            # A server may tell any address of others: one without a key, or of a wrong form.
            with contextlib.suppress(ValueError, zmq.ZMQError):
                if self._secure is not None:
                    self._secure(socket, address)
                socket.setsockopt(zmq.IPV6, int(takes_ipv6(address)))
                socket.connect(dialled(address))
        return socket

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        self._context.destroy(linger=0)
        self._sockets.clear()


def ask_status(
    addresses: Mapping[ServerId, str],
    timeout: float,
    secure: Secure | None = None,
    *,
    state: bool = False,
) -> dict[ServerId, StatusReply]:
    """Ask once; see `StatusProbe.ask`. Sockets belong to one thread: each question has its own."""
    probe = StatusProbe(secure)
    try:
        return probe.ask(addresses, timeout, state=state)
    finally:
        probe.close()


def agreed_leader(answers: Mapping[ServerId, StatusReply]) -> ServerId | None:
    """The server that says it leads, if there is one.

    A deposed leader that has not heard of it yet may say so too: of two the higher ballot counts.
    """
    leaders = [reply for reply in answers.values() if reply.role == "leader"]
    if not leaders:
        return None
    return max(leaders, key=lambda reply: reply.ballot).server


def comparable_slot(replies: Iterable[StatusReply]) -> int:
    """The last slot that all of these servers have executed: there their hashes can be compared."""
    return min((reply.executed for reply in replies), default=0)


def _told_of(
    addresses: Mapping[ServerId, str], answers: Mapping[ServerId, StatusReply]
) -> dict[ServerId, str]:
    """Where those who answered know others to be: ones that nobody thought of, or that have moved.

    Whoever knows of the last change of members goes first.
    """
    answered = {reply.server for reply in answers.values()}
    found: dict[ServerId, str] = {}
    for reply in sorted(answers.values(), key=lambda reply: -reply.epoch):
        for server, address in reply.addresses.items():
            if server not in answered and address not in addresses.values():
                found.setdefault(server, address)
    return found


def look_around(
    addresses: Mapping[ServerId, str],
    timeout: float,
    secure: Secure | None = None,
    *,
    state: bool = False,
) -> list[ServerStatus]:
    """A row for every address; servers that answer say themselves which they are.

    Under load no two have executed equally far, so they are asked a second time, for their hashes
    after one slot.
    """
    probe = StatusProbe(secure)
    try:
        answers = probe.ask(addresses, timeout, state=state)
        if probe.client_ports:
            mended = {s: probe.client_ports.get(a, a) for s, a in addresses.items()}
            answers |= probe.ask({s: mended[s] for s in mended if s not in answers}, timeout)
            addresses = mended
        others = _told_of(addresses, answers)
        if others:
            found = probe.ask(others, timeout, state=state)
            addresses = {**others, **addresses, **{server: others[server] for server in found}}
            answers |= found
        slot = comparable_slot(answers.values())
        if slot and any(reply.digest_slot != slot for reply in answers.values()):
            asked = {server: addresses[server] for server in answers}
            answers |= probe.ask(asked, timeout, state=state, digest_slot=slot)
    finally:
        probe.close()
    rows = []
    for server, address in addresses.items():
        reply = answers.get(server)
        known = reply.server if reply is not None else max(server, 0)
        rows.append(ServerStatus(server=known, address=address, reply=reply))
    return sorted(rows, key=lambda row: row.server or len(rows))
