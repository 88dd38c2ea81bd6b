"""Ask every server how it is, without a session and without following leaders."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from paxon.actors import ServerId
from paxon.actors.members import AskMembers, Members
from paxon.actors.messages import (
    PortOfServers,
    QueryReply,
    ServerReply,
    StatusReply,
    StatusRequest,
)
from paxon.kvstore.client.checks import check_timeout
from paxon.kvstore.client.keys import Keyring
from paxon.kvstore.client.links import Links, Secure
from paxon.kvstore.cluster.supervisor import ProcessState

__all__ = [
    "ServerStatus", "StatusProbe", "agreed_leader", "ask_status", "comparable_slot", "look_around",
]  # fmt: skip

_REDIAL_CHECK_SECONDS = 0.1


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
    trouble: str = ""
    """Why it cannot be talked to, as the end of a sentence; "" if nothing is known to be wrong."""
    reply: StatusReply | None = None
    """What the server answered; None if it did not answer in time."""


class StatusProbe:
    """Asks servers, of whatever clusters, how they are; used by one thread, again and again."""

    def __init__(self, secure: Secure | None = None) -> None:
        self.client_ports: dict[str, str] = {}
        """Of addresses that turned out to be ports for servers: where clients reach those."""
        self.troubles: dict[str, str] = {}
        """By address, why a server cannot be talked to."""
        self._number = 0
        self._answers: dict[str, StatusReply] = {}
        self._heard: set[str] = set()
        """Who has said something to the point since the last question."""
        self._secure = secure
        self._links = Links(
            lambda _link: None, self._receive, trouble=self._trouble, secure=secure, pins=False
        )

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
        self._answers = {}
        self._question(addresses, StatusRequest(self._number + 1, digest_slot, state), timeout)
        return {s: self._answers[a] for s, a in addresses.items() if a in self._answers}

    def learn(
        self, others: Mapping[ServerId, str], teller: Mapping[ServerId, str], timeout: float
    ) -> None:
        """With keys: have `teller`, which has answered, tell those of servers it has told of."""
        if isinstance(self._secure, Keyring) and self._secure.learn(others, {}):
            self._question(teller, AskMembers(self._number + 1), timeout)

    def _question(
        self,
        addresses: Mapping[ServerId, str],
        question: StatusRequest | AskMembers,
        timeout: float,
    ) -> None:
        """Put it to all of them, and take in what comes until they have answered."""
        end = time.monotonic() + timeout
        self._number += 1
        self._heard = set(self.client_ports)
        links = self._links.send([(a, [question]) for a in addresses.values()], self._number)
        poller = select.poll()
        for link in links:
            poller.register(link.fd, select.POLLIN)
        while True:
            for link in links:
                self._links.ended(link)  # dials again, where that is due
                self._links.drain(link)
            left = end - time.monotonic()
            if left <= 0 or self._heard.issuperset(link.address for link in links):
                return
            poller.poll(math.ceil(min(left, _REDIAL_CHECK_SECONDS) * 1000))

    def _receive(self, address: str, messages: Sequence[ServerReply]) -> None:
        """Take in the answer to the last question; anything else is of an earlier one."""
        for message in messages:
            if isinstance(message, StatusReply) and message.id == self._number:
                self._answers[address] = message
            elif isinstance(message, QueryReply) and message.id == self._number:
                if isinstance(self._secure, Keyring):
                    self._secure.trust(
                        msgspec.msgpack.decode(message.payload, type=Members).members
                    )
            elif isinstance(message, PortOfServers) and message.address:
                self.client_ports[address] = message.address
            else:
                continue
            self._heard.add(address)

    def _trouble(self, address: str, text: str) -> bool:
        self.troubles[address] = text
        return True

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        self._links.close()


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
    after one slot. Raises `InvalidRequest` for a wrong timeout.
    """
    timeout = check_timeout(timeout, 0.0)
    probe = StatusProbe(secure)
    try:
        answers = probe.ask(addresses, timeout, state=state)
        if probe.client_ports:
            mended = {s: probe.client_ports.get(a, a) for s, a in addresses.items()}
            answers |= probe.ask({s: mended[s] for s in mended if s not in answers}, timeout)
            addresses = mended
        others = _told_of(addresses, answers)
        if others:
            newest = max(answers, key=lambda server: answers[server].epoch)
            probe.learn(others, {newest: addresses[newest]}, timeout)
            found = probe.ask(others, timeout, state=state)
            addresses = {**others, **addresses, **{server: others[server] for server in found}}
            answers |= found
        slot = comparable_slot(answers.values())
        if slot and any(reply.digest_slot != slot for reply in answers.values()):
            asked = {server: addresses[server] for server in answers}
            answers |= probe.ask(asked, timeout, state=state, digest_slot=slot)
    finally:
        probe.close()
    of = {a: s for reply in answers.values() for s, a in reply.addresses.items()}
    rows = []
    for server, address in addresses.items():
        reply = answers.get(server)
        known = reply.server if reply is not None else max(server, 0) or of.get(address, 0)
        trouble = probe.troubles.get(address, "") if reply is None else ""
        rows.append(ServerStatus(server=known, address=address, reply=reply, trouble=trouble))
    return sorted(rows, key=lambda row: row.server or len(rows))
