"""Client sessions: at-most-once for many outstanding commands (rule 5).

Part of the replicated state: changed only by executing slots, so it is the same on every server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec

from paxon.actors.ballot import Wire
from paxon.actors.execution.agreed import Agreed
from paxon.actors.limits.allowances import FAILURE_BYTES, KEPT_SHARE, MESSAGE_BYTES, RETRY_AFTER
from paxon.actors.messages import Entry, ReplyStatus, overloaded

__all__ = ["Reply", "Session", "SessionTable", "put_off"]


class Reply(Wire, frozen=True):
    """How a command ended, kept until the client has acknowledged it."""

    status: ReplyStatus
    payload: bytes


def put_off(reason: str, seconds: float = RETRY_AFTER) -> Reply:
    """The reply to what is refused for a bound: it may come again after so many seconds."""
    return Reply(ReplyStatus.OVERLOADED, overloaded(reason, seconds))


FORGOTTEN = Reply(ReplyStatus.FORGOTTEN, b"executed before; the client had acknowledged its reply")
OUT_OF_ORDER = Reply(ReplyStatus.OUT_OF_ORDER, b"the command that this one follows did not execute")
EXPIRED = Reply(ReplyStatus.EXPIRED, b"the session is unknown here: it expired or never was opened")
NOT_ACKNOWLEDGED = put_off("too many replies are kept that no client has acknowledged")
SLOT_IS_FULL = put_off("the commands before it had too large replies")
NO_ROOM = put_off("there are too many sessions, all of them in use", 1.0)


class Session(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One client's memory in the replicated state."""

    floor: int
    """All sequence numbers below are acknowledged: their replies are gone."""
    last_seen: int
    """The log's time of its last command, in nanoseconds."""
    replies: dict[int, Reply]
    """By sequence number, from `floor` on."""
    kept: int = 0
    """What these replies count for, in bytes."""

    def known(self, seq: int) -> Reply | None:
        """The reply if command `seq` took effect before."""
        if seq < self.floor:
            return FORGOTTEN
        return self.replies.get(seq)

    def executed(self, seq: int) -> bool:
        return seq < self.floor or seq in self.replies


_FAILED = ReplyStatus.FAILED
_NANOSECONDS = 1_000_000_000
_BEFORE_ALL = -(1 << 63)


class _Dump(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    time: int
    sessions: dict[int, Session]
    unused: dict[int, Session]


class SessionTable:
    """All sessions, the longest idle first.

    Sessions expire by the log's own time, which each slot's `Batch.time` moves, and past a maximum
    count: both are functions of the executed prefix alone.
    """

    def __init__(self, agreed: Agreed, identity: int = 0) -> None:
        """Args: what is agreed, and the cluster's identity."""
        self.agree(agreed)
        self.identify(identity)
        self._sessions: dict[int, Session] = {}
        """Those that a command has come in."""
        self._unused: dict[int, Session] = {}
        """The others. They are the first to go: else one client that opens sessions by the thousand
        would end everybody's."""
        self.kept = 0
        """What all replies kept count for, in bytes."""
        self.time = 0
        """The log's time, nanoseconds: runs with the leader's clock, stands while nobody leads."""
        self._seen_since = _BEFORE_ALL
        """No session was seen last before, so that not each slot need look for the oldest."""
        self.count: Callable[[bytes], int] = len
        """What a state machine's reply counts for (`StateMachine.reply_bytes`)."""

    def agree(self, agreed: Agreed) -> None:
        """These are in force from the next slot on."""
        self._ttl = int(agreed.session_ttl * _NANOSECONDS)
        self._max_sessions = agreed.max_sessions
        self._min_idle = int(agreed.session_min_idle * _NANOSECONDS)
        self.max_kept_each = agreed.max_kept_each
        """Bytes of replies kept for one session; the last one may go over it."""
        self.max_kept = agreed.max_kept

    def identify(self, identity: int) -> None:
        """The cluster is this one, from before the first session on."""
        self._identity = msgspec.msgpack.encode(identity)

    def __len__(self) -> int:
        return len(self._sessions) + len(self._unused)

    def get(self, session: int) -> Session | None:
        return self._sessions.get(session) or self._unused.get(session)

    def advance(self, time: int) -> None:
        """A slot with this time is executed next: expire what has been idle for too long."""
        self.time = max(self.time, time)
        expires = self.time - self._ttl
        if self._seen_since >= expires:
            return
        self._seen_since = self.time
        for sessions in (self._sessions, self._unused):
            while sessions:
                oldest = next(iter(sessions))
                last_seen = sessions[oldest].last_seen
                if last_seen >= expires:
                    self._seen_since = min(self._seen_since, last_seen)
                    break
                self._drop(sessions, oldest)

    def open(self, slot: int, index: int, nonce: int) -> int | None:
        """A new session for the request in this place of the log; returns its id.

        Ids are unique over clusters and their lives, and nobody guesses one: a hash over the place,
        the client's random number and the cluster's identity.

        None if there are too many sessions and each of them has been in use just now.
        """
        while len(self) >= self._max_sessions:  # several if fewer are allowed now
            if not self._make_room():
                return None
        attempt = 0
        session = self._id(slot, index, nonce, attempt)
        while session == 0 or self.get(session) is not None:  # 0 stands for "no session"
            attempt += 1
            session = self._id(slot, index, nonce, attempt)
        self._unused[session] = Session(1, self.time, {})
        return session

    def _make_room(self) -> bool:
        if self._unused:
            self._drop(self._unused, next(iter(self._unused)))
            return True
        oldest = next(iter(self._sessions))
        if self._sessions[oldest].last_seen > self.time - self._min_idle:
            return False
        self._drop(self._sessions, oldest)
        return True

    def _drop(self, sessions: dict[int, Session], session: int) -> None:
        self.kept -= sessions.pop(session).kept

    def _id(self, *place: int) -> int:
        text = msgspec.msgpack.encode(place)
        hashed = hashlib.blake2b(text, digest_size=8, key=self._identity).digest()
        return int.from_bytes(hashed, "big") >> 1

    def touch(self, entry: Entry) -> Session | None:
        """The session of a command about to execute, acknowledged replies dropped; None if gone."""
        session = self._sessions.pop(entry.session, None) or self._unused.pop(entry.session, None)
        if session is None:
            return None
        self._sessions[entry.session] = session  # now the most recently seen
        session.last_seen = self.time
        if entry.acked > session.floor:
            self._acknowledge(session, entry.acked)
        return session

    def _acknowledge(self, session: Session, acked: int) -> None:
        replies, floor, freed = session.replies, session.floor, 0
        # Most often one or two numbers; but a client may leap over any range.
        if acked - floor > len(replies):
            gone: Iterable[int] = [seq for seq in replies if seq < acked]
        else:
            gone = range(floor, acked)
        for seq in gone:
            reply = replies.pop(seq, None)
            if reply is not None:  # (as `reply_bytes`, without a call)
                size = FAILURE_BYTES if reply.status is _FAILED else self.count(reply.payload)
                freed += size + MESSAGE_BYTES
        session.floor = acked
        session.kept -= freed
        self.kept -= freed

    def is_full(self, session: Session, seq: int) -> bool:
        """Whether this session executes no command `seq` until some replies are acknowledged.

        The first command that is not acknowledged always is: later ones, executed before it, may
        have filled the session, and none of their replies can be acknowledged before its own.
        """
        if seq == session.floor:
            return False
        return session.kept >= self.max_kept_each or (
            self.kept >= self.max_kept and session.kept >= KEPT_SHARE
        )

    def keep(self, session: Session, seq: int, reply: Reply) -> int:
        """Keep a command's reply; returns what it counts for."""
        size = FAILURE_BYTES if reply.status is _FAILED else self.count(reply.payload)
        size += MESSAGE_BYTES
        session.replies[seq] = reply
        session.kept += size
        self.kept += size
        return size

    def reply_bytes(self, reply: Reply) -> int:
        """The bytes that a reply counts for, the same on every server.

        The text of an exception may be longer or shorter elsewhere: it may hold an address in
        memory, or read otherwise in another Python. So a failure counts the same whatever its text.
        """
        failed = reply.status is _FAILED
        return (FAILURE_BYTES if failed else self.count(reply.payload)) + MESSAGE_BYTES

    def summary(self) -> bytes:
        """A fingerprint that costs next to nothing, however many sessions and replies there are."""
        last = next(reversed(self._sessions), 0)
        floor = self._sessions[last].floor if last else 0
        parts = (self.time, len(self), self.kept, last, floor, next(reversed(self._unused), 0))
        return repr(parts).encode()

    def dump(self) -> bytes:
        """For the snapshot."""
        return msgspec.msgpack.encode(_Dump(self.time, self._sessions, self._unused))

    def load(self, dump: bytes) -> None:
        loaded = msgspec.msgpack.decode(dump, type=_Dump)
        self.time = loaded.time
        self._sessions = loaded.sessions
        self._unused = loaded.unused
        self._seen_since = _BEFORE_ALL
        for session in self._sessions.values():  # anew: `count` may be newer than the dump
            session.kept = 0
            for reply in session.replies.values():
                session.kept += self.reply_bytes(reply)
        self.kept = sum(session.kept for session in self._sessions.values())
