"""What one step of a server sends: collected while it runs, and sent once all is synced.

Handlers, and the parts beside the protocol (actors/parts/), queue here. Nothing leaves before the
flush (actor.py), which begins this anew; `early` and answers to watches may leave before the sync.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.environment import ClientToken, Network
from paxon.actors.limits.allowances import (
    FRAME_BYTES,
    MESSAGE_BYTES,
    RETRY_AFTER,
    TRANSFERS_PER_PEER,
)
from paxon.actors.messages import (
    P2A,
    P2B,
    Overloaded,
    PeerMessage,
    QueryReply,
    ReplyStatus,
    ServerReply,
    overloaded,
)

__all__ = ["Outbox", "in_frames"]

MessageT = TypeVar("MessageT")
_INVALID = ReplyStatus.INVALID


class Outbox:
    """The messages of the step under way, and what it has given to whom."""

    __slots__ = (
        "_counters", "early", "network", "now", "replied_bytes", "to_all", "to_client", "to_peer",
        "transferred",
    )  # fmt: skip

    network: Network
    """Set once the sockets are open."""

    def __init__(self, counters: dict[str, int]) -> None:
        self._counters = counters
        self.now = 0.0
        """When the step began, monotonic seconds."""
        self.early: list[P2A] = []
        """What relies on nothing that this step changes, and may leave before the sync."""
        self.to_all: list[PeerMessage] = []
        self.to_peer: dict[ServerId, list[PeerMessage]] = {}
        self.to_client: dict[ClientToken, list[ServerReply]] = {}
        self.transferred: dict[ServerId, int] = {}
        """Bytes of log and snapshots for each peer."""
        self.replied_bytes = 0
        """What large replies and those to queries have come to."""

    # --- queueing --------------------------------------------------------------------------------

    def send(self, server: ServerId, message: PeerMessage) -> None:
        """Queue for one peer, after the sync."""
        self.to_peer.setdefault(server, []).append(message)

    def acknowledge(self, leader: ServerId, ballot: Ballot, slot: int, count: int) -> None:
        """Queue a P2B; a run of slots in one ballot becomes one P2B for the range."""
        queued = self.to_peer.setdefault(leader, [])
        if queued:
            last = queued[-1]
            if (
                type(last) is P2B
                and last.last + 1 == slot
                and last.ballot == ballot
                and last.promised is None
            ):
                queued[-1] = P2B(ballot, last.first, slot, None, count)
                return
        queued.append(P2B(ballot, slot, slot, None, count))

    def reply(self, client: ClientToken, reply: ServerReply) -> None:
        """Queue for a client, after the sync."""
        self.to_client.setdefault(client, []).append(reply)

    def may_transfer(self, server: ServerId, size: int) -> bool:
        """Whether a peer may have so much more of log and snapshot in this step.

        What it asked for beyond that is not answered: it asks again for what it still needs.
        """
        sent = self.transferred.get(server, 0)
        if sent and sent + size > TRANSFERS_PER_PEER:
            self._counters["overloaded"] += 1
            return False
        self.transferred[server] = sent + size
        return True

    def throw_away(
        self, client: ClientToken, reason: str, retry_after: float = RETRY_AFTER
    ) -> None:
        """Say that something of a client's was, once a step; `retry_after` in seconds."""
        self._counters["overloaded"] += 1
        queued = self.to_client.setdefault(client, [])
        if not queued or type(queued[-1]) is not Overloaded:
            queued.append(Overloaded(round(retry_after * 1000), reason))

    def refuse(
        self, client: ClientToken, number: int, reason: str, status: ReplyStatus = _INVALID
    ) -> None:
        """Refuse a client's request: for what it says, or (FAILED) because it cannot be now."""
        self.reply(client, QueryReply(number, status, reason.encode()))

    def put_off(self, client: ClientToken, number: int, reason: str) -> None:
        """Refuse a client's request for a bound: it may come again."""
        self._counters["overloaded"] += 1
        payload = overloaded(reason, RETRY_AFTER)
        self.reply(client, QueryReply(number, ReplyStatus.OVERLOADED, payload))

    def send_replies(self) -> None:
        """Send what is queued for clients."""
        much = self.replied_bytes >= FRAME_BYTES
        for client, replies in self.to_client.items():
            for frame in in_frames(replies) if much else (replies,):
                self.network.reply(client, frame)
        self.to_client = {}


def in_frames(messages: list[MessageT]) -> Iterator[list[MessageT]]:
    """In frames of bounded size, so that none is encoded twice."""
    if len(messages) == 1:
        yield messages
        return
    frame: list[MessageT] = []
    size = 0
    for message in messages:
        frame.append(message)
        content: bytes = getattr(message, "payload", b"") or getattr(message, "value", b"")
        size += len(content) + MESSAGE_BYTES
        if size >= FRAME_BYTES:
            yield frame
            frame, size = [], 0
    if frame:
        yield frame
