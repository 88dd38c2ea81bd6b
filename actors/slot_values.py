"""What a slot holds: the commands that a leader packed together, and the log's time."""

from __future__ import annotations

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot, Wire

__all__ = ["CONFIG", "NO_OP", "RENEWAL", "SETTINGS", "Accepted", "Batch", "Entry", "packed_in"]

NO_OP = b""
"""The value that a new leader proposes into a hole: executing it does nothing (PMMC §2.3)."""

CONFIG = 0xC1
"""The first byte of a value that seals an epoch: who decides the slots after it follows
(actors/records/configuration.py). No msgpack begins so, hence no batch does."""

SETTINGS = 1
"""As `Entry.acked` of an entry of no session: its command is a `Change` (execution/agreed.py)."""

RENEWAL = 2
"""The same of a renewal: executed before anything else in its slot (`StateMachine.renews`)."""


class Entry(Wire, frozen=True):
    """One client command inside a slot's value."""

    session: int
    """The session that submitted it; 0: none. Then `seq` is a nonce, and `acked` says what it is: 0
    opens a session, or executes a server's own `command`; else see `SETTINGS` and `RENEWAL`."""
    seq: int
    """Its sequence number in the session, from 1: each takes effect at most once."""
    acked: int
    """The client has the replies of all its commands below this number; they may be forgotten."""
    after: int
    """Execute only if this earlier command of the session was executed; 0: no such condition."""
    command: bytes
    """Opaque to Paxon: the user's `StateMachine` decodes it."""


class Batch(Wire, frozen=True, gc=True):
    """The decoded value of a slot: the commands that waited at the leader, in order."""

    time: int
    """The log's time, nanoseconds: runs with the leader's clock and stands while nobody leads."""
    entries: list[Entry]
    """Renewals first; none at all where the slot is proposed for its time."""
    reign: Ballot = NO_BALLOT
    """The ballot of the leader that packed it and read its clock: it rises with the slots
    (docs/design/time.md). A leader that takes the value over proposes it unchanged."""


class Accepted(Wire, frozen=True):
    """A value that an acceptor has accepted for a slot, and in which ballot."""

    slot: int
    ballot: Ballot
    value: bytes


class _Packed(msgspec.Struct, array_like=True):
    """A batch whose commands are passed over."""

    time: int
    entries: msgspec.Raw
    reign: Ballot = NO_BALLOT


_packed = msgspec.msgpack.Decoder(_Packed)


def packed_in(value: bytes) -> Ballot:
    """The ballot that packed a value's batch; `NO_BALLOT` if it is unknown, or no batch."""
    if value == NO_OP or value[0] == CONFIG:
        return NO_BALLOT
    try:
        return _packed.decode(value).reign
    except msgspec.MsgspecError:
        return NO_BALLOT  # (executing it will say what it is)
