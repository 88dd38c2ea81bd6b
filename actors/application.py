"""The user's state machine wrapped in sessions: executes slots, each command at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from paxon.actors.agreed import (
    Agreed,
    apply_change,
    decode_agreed,
    decode_change,
    encode_agreed,
)
from paxon.actors.invariants import invariant
from paxon.actors.messages import NO_OP, SETTINGS, Batch, Entry, ReplyStatus
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
    agreed: bytes


class Application:
    """State machine, sessions and what is agreed after executing slots 1 … `executed`, in order."""

    def __init__(self, machine: StateMachine, agreed: Agreed) -> None:
        """Args: a fresh state machine, and the settings with which the cluster was made."""
        self.machine = machine
        self.sessions = SessionTable(agreed.session_ttl, agreed.max_sessions)
        self.executed = 0
        self._agree(agreed)

    def _agree(self, agreed: Agreed) -> None:
        self.agreed = self._agreed_next = agreed
        self.sessions.agree(agreed.session_ttl, agreed.max_sessions)
        self.machine.agree(dict(agreed.machine))

    def begin_with(self, agreed: Agreed) -> None:
        """These are the settings with which the cluster was made; nothing is executed yet."""
        invariant(self.executed == 0, "made anew after slot %d", self.executed)
        self._agree(agreed)

    def execute(self, slot: int, value: bytes, batch: Batch | None = None) -> list[Executed]:
        """Execute the chosen value of the next slot; `batch` is its decoded form if at hand."""
        invariant(slot == self.executed + 1, "slot %d executed after %d", slot, self.executed)
        self.executed = slot
        if value == NO_OP:
            return []
        if batch is None:
            batch = decode_batch(value)
        self.sessions.advance(batch.time)
        results = [
            (entry, self._execute_entry(slot, index, entry))
            for index, entry in enumerate(batch.entries)
        ]
        if self._agreed_next is not self.agreed:
            self._agree(self._agreed_next)  # in force from the next slot on
        return results

    def _execute_entry(self, slot: int, index: int, entry: Entry) -> Reply:
        if entry.session == 0:
            return self._execute_sessionless(slot, index, entry)
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

    def _execute_sessionless(self, slot: int, index: int, entry: Entry) -> Reply:
        if entry.acked == SETTINGS:
            return self._change_settings(slot, entry.command)
        # Nothing enters the log before all servers know it, so this one would be of an old release.
        invariant(entry.acked == 0, "slot %d has an entry of unknown kind %d", slot, entry.acked)
        if entry.command:
            return self._apply(entry.command)
        session_id = self.sessions.open(slot, index)
        return Reply(ReplyStatus.OK, session_id.to_bytes(8, "big"))

    def _change_settings(self, slot: int, body: bytes) -> Reply:
        """Decide about a change of what is agreed; the answer is what is agreed then."""
        before = self._agreed_next
        after = apply_change(before, decode_change(body), slot, self.machine.limits)
        if after is None:
            text = f"the settings were changed meanwhile, in slot {before.changed_at}: look at them"
            return Reply(ReplyStatus.FAILED, text.encode())
        self._agreed_next = after
        return Reply(ReplyStatus.OK, encode_agreed(after))

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
        head = _Head(self.executed, self.sessions.dump(), encode_agreed(self.agreed))
        return self._pieces(_encoder.encode(head))

    def _pieces(self, head: bytes) -> Iterator[bytes]:
        yield len(head).to_bytes(8, "big") + head
        yield self.machine.snapshot()

    def restore(self, image: bytes) -> None:
        """Become the state that `image` describes."""
        length = int.from_bytes(image[:8], "big")
        head = msgspec.msgpack.decode(memoryview(image)[8 : 8 + length], type=_Head)
        invariant(head.slot >= self.executed, "snapshot at %d is behind", head.slot)
        self._agree(decode_agreed(head.agreed, self.machine.limits))
        self.machine.restore(image[8 + length :])
        self.sessions.load(head.sessions)
        self.executed = head.slot

    def digest(self) -> str:
        """Fingerprint of state, sessions and settings, "" if the state machine offers none."""
        state = self.machine.digest()
        if not state:
            return ""
        rest = hashlib.blake2b(self.sessions.dump(), digest_size=8)
        rest.update(encode_agreed(self.agreed))
        return f"{state}-{rest.hexdigest()}"


def _describe(error: Exception) -> bytes:
    return f"{type(error).__name__}: {error}".encode(errors="replace")
