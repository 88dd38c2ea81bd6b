"""The user's state machine wrapped in sessions: executes slots, each command at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from paxon.actors.invariants import invariant
from paxon.actors.messages import NO_OP, Batch, Entry, ReplyStatus
from paxon.actors.sessions import EXPIRED, OUT_OF_ORDER, Reply, SessionTable
from paxon.actors.state_machine import StateMachine

__all__ = ["Application", "Executed", "encode_batch", "decode_batch"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)

Executed = tuple[Entry, Reply]
"""A command of an executed slot and how it ended (for the client that waits, if any)."""


def encode_batch(batch: Batch) -> bytes:
    """The value of a slot: encoded once, passed on as opaque bytes to followers and disk."""
    return _encoder.encode(batch)


def decode_batch(value: bytes) -> Batch:
    return _decoder.decode(value)


class _Head(msgspec.Struct, array_like=True):
    """Leads a snapshot's image; the state machine's own bytes follow."""

    slot: int
    sessions: bytes


class Application:
    """State machine and sessions after executing slots 1 … `executed`, in order."""

    def __init__(self, machine: StateMachine, ttl: float, max_sessions: int) -> None:
        self.machine = machine
        self.sessions = SessionTable(ttl, max_sessions)
        self.executed = 0

    def execute(self, slot: int, value: bytes, batch: Batch | None = None) -> list[Executed]:
        """Execute the chosen value of the next slot; `batch` is its decoded form if at hand."""
        invariant(slot == self.executed + 1, "slot %d executed after %d", slot, self.executed)
        self.executed = slot
        if value == NO_OP:
            return []
        if batch is None:
            batch = decode_batch(value)
        self.sessions.advance(batch.time)
        return [
            (entry, self._execute_entry(slot, index, entry))
            for index, entry in enumerate(batch.entries)
        ]

    def _execute_entry(self, slot: int, index: int, entry: Entry) -> Reply:
        if entry.session == 0:
            if entry.command:  # proposed by the server's own process, which never tries again
                return self._apply(entry.command)
            session_id = self.sessions.open(slot, index)
            return Reply(ReplyStatus.OK, session_id.to_bytes(8, "big"))
        session = self.sessions.touch(entry)
        if session is None:
            return EXPIRED
        known = session.known(entry.seq)
        if known is not None:
            return known
        if entry.after and not session.executed(entry.after):
            return OUT_OF_ORDER
        reply = self._apply(entry.command)
        session.replies[entry.seq] = reply
        return reply

    def _apply(self, command: bytes) -> Reply:
        try:
            return Reply(ReplyStatus.OK, self.machine.apply(command))
        except MemoryError:  # happens to this server and not to the others: stop, don't diverge
            raise
        except Exception as error:  # the user's code may raise anything: it is the command's reply
            return Reply(ReplyStatus.FAILED, _describe(error))

    def query(self, query: bytes) -> Reply:
        """Answer a read from the state as it is."""
        try:
            return Reply(ReplyStatus.OK, self.machine.query(query))
        except Exception as error:  # as above
            return Reply(ReplyStatus.FAILED, _describe(error))

    def image(self) -> Iterable[bytes]:
        """The pieces of a snapshot of the state now; restore with `restore`."""
        head = _encoder.encode(_Head(self.executed, self.sessions.dump()))
        return self._pieces(head)

    def _pieces(self, head: bytes) -> Iterator[bytes]:
        yield len(head).to_bytes(8, "big") + head
        yield self.machine.snapshot()

    def restore(self, image: bytes) -> None:
        """Become the state that `image` describes."""
        length = int.from_bytes(image[:8], "big")
        head = msgspec.msgpack.decode(memoryview(image)[8 : 8 + length], type=_Head)
        invariant(head.slot >= self.executed, "snapshot at %d is behind", head.slot)
        self.machine.restore(image[8 + length :])
        self.sessions.load(head.sessions)
        self.executed = head.slot

    def digest(self) -> str:
        """Fingerprint of state and sessions, "" if the state machine offers none."""
        state = self.machine.digest()
        if not state:
            return ""
        sessions = hashlib.blake2b(self.sessions.dump(), digest_size=8).hexdigest()
        return f"{state}-{sessions}"


def _describe(error: Exception) -> bytes:
    return f"{type(error).__name__}: {error}".encode(errors="replace")
