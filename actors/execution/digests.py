"""Hashes of what was executed, slot by slot, to tell servers apart (docs/design/digests.md).

Plain data: the chain of one server, what a leader has heard of the others', and the answers to a
server that asks everybody.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from zlib import crc32

import msgspec

from paxon.actors.ballot import ServerId, in_list
from paxon.actors.disk.storage import StorageError
from paxon.actors.messages import DigestReply, DigestRequest, SnapshotOffer

__all__ = ["Comparison", "Diverged", "HashChain", "Inquiry", "SnapshotCheck", "Verdict"]

KEPT_SLOTS, PINNED_SLOTS = 4096, 4
"""Hashes are kept for so many slots, and for so many of the last snapshots."""
HASH_BYTES = 16
_LINK = struct.Struct(f"<{HASH_BYTES}sQLL")
"""What is hashed for a slot: the hash before, its number, and the CRC-32 of its value and of its
replies. A checksum finds what went wrong by accident as well as a hash of all bytes would, at a
quarter of the time; nobody is to be kept from making two values alike, for a slot has but one."""


class Diverged(StorageError):
    """A majority has executed something else than this server; the text says from where on."""


class HashChain:
    """The hash after each of the last slots: over the one before, the slot's value and its replies.

    Equal hashes after a slot mean that all slots up to it came to the same, back to where a chain
    of that version began.
    """

    def __init__(self, version: int) -> None:
        self.begin(version, 0)

    def begin(self, version: int, slot: int, head: bytes = bytes(HASH_BYTES)) -> None:
        """The hash after `slot` is `head`; of the slots before none is known in this version."""
        self.version = version
        self.last = slot
        self._kept: deque[bytes] = deque([head], maxlen=KEPT_SLOTS)
        self._pinned: dict[int, bytes] = {}

    @property
    def first(self) -> int:
        """The first slot of those kept without a gap."""
        return self.last - len(self._kept) + 1

    @property
    def head(self) -> bytes:
        """The hash after slot `last`."""
        return self._kept[-1]

    def extend(self, slot: int, checksum: int, replies: bytes) -> None:
        """Slot `slot`, the next one, came to `replies`, of any encoding.

        `checksum` is the CRC-32 of its value, which the log has taken already.
        """
        link = _LINK.pack(self._kept[-1], slot, checksum, crc32(replies))
        self.last = slot
        self._kept.append(blake2b(link, digest_size=HASH_BYTES).digest())

    def pin(self) -> None:
        """A snapshot is taken of the state now: keep this hash for longer."""
        self._pinned[self.last] = self.head
        for slot in sorted(self._pinned)[:-PINNED_SLOTS]:
            del self._pinned[slot]

    def at(self, slot: int) -> bytes:
        """The hash after `slot`; b"" if it is not known."""
        if self.first <= slot <= self.last:
            return self._kept[slot - self.first]
        return self._pinned.get(slot, b"")

    def between(self, first: int, last: int) -> tuple[int, bytes]:
        """The hashes known for these slots: the first of them, then the hash after each."""
        if first == last:
            return first, self.at(first)
        first, last = max(first, self.first), min(last, self.last)
        return first, b"".join(self.at(slot) for slot in range(first, last + 1))

    def differs(self, version: int, slot: int, digest: bytes) -> bool:
        """Whether another server's hash after `slot` can be compared, and is not ours."""
        own = self.at(slot) if version == self.version and digest else b""
        return bool(own) and own != digest


class Comparison:
    """The others' hashes, as far as a leader has heard of them."""

    def __init__(self) -> None:
        self.equal: dict[ServerId, int] = {}
        """The last slot after which a server had the hash that this one has."""
        self.early: dict[ServerId, tuple[int, int, bytes]] = {}
        """Of a server that is ahead: version, slot and hash, until this one gets there."""

    def heard(
        self, server: ServerId, version: int, slot: int, digest: bytes, chain: HashChain
    ) -> bool:
        """A server says its hash after `slot`. True if it, or one told before, is not ours."""
        told = [(version, slot, digest)]
        if server in self.early and self.early[server][1] <= chain.last:
            told.append(self.early.pop(server))
        if slot > chain.last:
            self.early.setdefault(server, told.pop(0))
        for each in told:
            if chain.differs(*each):
                return True
            version, slot, digest = each
            if version == chain.version and digest and digest == chain.at(slot):
                self.equal[server] = max(slot, self.equal.get(server, 0))
        return False

    def vouchers(self, slot: int) -> tuple[ServerId, ...]:
        """The servers that have had this server's hash after `slot` or a later one."""
        return tuple(server for server, equal in self.equal.items() if equal >= slot)


class Verdict(msgspec.Struct, frozen=True):
    """The result of all answers together."""

    differ: list[ServerId]
    """Whose hashes are not this server's."""
    from_slot: int
    exact: bool
    """The first slot after which a hash is known to differ; whether the one before is equal."""
    contradicted: bool
    """A majority of voters agree on another hash than this server's."""

    @property
    def _since(self) -> str:
        return f"from slot {self.from_slot} on{'' if self.exact else ' or earlier'}"

    def alarm(self, server: ServerId) -> str:
        """A sentence for people: `server` differs from these, and nobody knows who is right."""
        return f"{in_list(self.differ)} executed something else than server {server} {self._since}"

    def why_stopped(self, server: ServerId) -> str:
        """Why `server` stops: a majority contradicts it."""
        return (
            f"server {server} executed something else {self._since} than {in_list(self.differ)}, "
            f"and they are the majority: its state is wrong. Empty its directory and start it once "
            f"with --rejoin; if it happens again, its memory is faulty, or the state machine is "
            f"not deterministic or changes in a query"
        )


class Inquiry:
    """A server has found a difference and asked all others for all the hashes that they keep."""

    def __init__(self, question: DigestRequest, until: float) -> None:
        self.question = question
        self.asked = 1
        self.until = until
        """When to ask those again who have not answered, or to conclude without them."""
        self.answers: dict[ServerId, DigestReply] = {}

    def verdict(self, chain: HashChain, majority: int) -> Verdict:
        """Compare what was answered so far with this server's own chain."""
        tops: dict[ServerId, int] = {}
        from_slot, exact = 0, False
        for server, answer in self.answers.items():
            found = _compare_chains(chain, answer)
            if found is not None:
                tops[server], first, known = found
                if not from_slot or first < from_slot:
                    from_slot, exact = first, known
        contradicted = any(self._majority_at(slot, chain, majority) for slot in tops.values())
        return Verdict(sorted(tops), from_slot, exact, contradicted)

    def _majority_at(self, slot: int, chain: HashChain, majority: int) -> bool:
        votes: dict[bytes, int] = {}
        for answer in self.answers.values():
            digest = _at(answer, slot)
            if answer.voting and chain.differs(answer.version, slot, digest):
                votes[digest] = votes.get(digest, 0) + 1
        return max(votes.values(), default=0) >= majority


def _at(answer: DigestReply, slot: int) -> bytes:
    place = (slot - answer.first_slot) * HASH_BYTES
    return answer.hashes[place : place + HASH_BYTES] if place >= 0 else b""


def _compare_chains(chain: HashChain, answer: DigestReply) -> tuple[int, int, bool] | None:
    """Where two chains part, None if nothing differs.

    That is the last slot that both know, at which they differ; the first at which they do; and
    whether the slot before that is known to be equal.
    """
    last = answer.first_slot + len(answer.hashes) // HASH_BYTES - 1
    top, low = min(last, chain.last), max(answer.first_slot, chain.first)
    if top < low or not chain.differs(answer.version, top, _at(answer, top)):
        return None
    first = next(slot for slot in range(low, top + 1) if chain.at(slot) != _at(answer, slot))
    return top, first, first > low


class SnapshotCheck:
    """Whether any voter that answers holds another hash for a snapshot that is offered."""

    def __init__(self, offer: SnapshotOffer, ask: Sequence[ServerId], until: float) -> None:
        self.offer = offer
        self.unheard = set(ask)
        self.until = until
        """How long to wait for those who do not answer."""
        self.objections: set[ServerId] = set()

    def heard(self, server: ServerId, answer: DigestReply) -> None:
        offer = self.offer
        if answer.first_slot != offer.slot or len(answer.hashes) > HASH_BYTES:
            return  # not about this
        self.unheard.discard(server)
        if (
            answer.voting
            and answer.hashes
            and offer.digest  # else the sender knows none itself
            and answer.version == offer.digest_version
            and answer.hashes != offer.digest
        ):
            self.objections.add(server)
