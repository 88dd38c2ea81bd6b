"""Client sessions: at-most-once for many outstanding commands (DESIGN §3, rule 5).

Part of the replicated state: changed only by executing slots, so it is the same on every server.
"""

from __future__ import annotations

import hashlib

import msgspec

from paxon.actors.messages import Entry, ReplyStatus

__all__ = ["Reply", "Session", "SessionTable"]


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """How a command ended, kept until the client has acknowledged it."""

    status: ReplyStatus
    payload: bytes


FORGOTTEN = Reply(ReplyStatus.FORGOTTEN, b"executed before; the client had acknowledged its reply")
OUT_OF_ORDER = Reply(ReplyStatus.OUT_OF_ORDER, b"the command that this one follows did not execute")
EXPIRED = Reply(ReplyStatus.EXPIRED, b"the session is unknown here: it expired or never was opened")


class Session(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One client's memory in the replicated state."""

    floor: int
    """All sequence numbers below are acknowledged: their replies are gone."""
    last_seen: float
    """The log's time of its last command, in seconds."""
    replies: dict[int, Reply]
    """By sequence number, from `floor` on."""

    def known(self, seq: int) -> Reply | None:
        """The reply if command `seq` took effect before."""
        if seq < self.floor:
            return FORGOTTEN
        return self.replies.get(seq)

    def executed(self, seq: int) -> bool:
        return seq < self.floor or seq in self.replies


class _Dump(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    time: float
    sessions: dict[int, Session]


class SessionTable:
    """All sessions, the longest idle first.

    Sessions expire by the log's own time, which each slot's `Batch.time` moves, and past a maximum
    count: both are functions of the executed prefix alone.
    """

    def __init__(self, ttl: float, max_sessions: int, identity: int = 0) -> None:
        """Args: what is agreed (`Agreed.session_ttl`, in seconds, and `Agreed.max_sessions`), and
        the cluster's identity."""
        self.agree(ttl, max_sessions)
        self.identify(identity)
        self._sessions: dict[int, Session] = {}
        self.time = 0.0
        """The log's time, seconds: runs with the leader's clock, stands while nobody leads."""

    def agree(self, ttl: float, max_sessions: int) -> None:
        """These are in force from the next slot on."""
        self._ttl = ttl
        self._max_sessions = max_sessions

    def identify(self, identity: int) -> None:
        """The cluster is this one, from before the first session on."""
        self._identity = msgspec.msgpack.encode(identity)

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session: int) -> Session | None:
        return self._sessions.get(session)

    def advance(self, time: float) -> None:
        """A slot with this time is executed next: expire what has been idle for too long."""
        self.time = max(self.time, time)
        while self._sessions:
            oldest = next(iter(self._sessions))
            if self._sessions[oldest].last_seen >= self.time - self._ttl:
                return
            del self._sessions[oldest]

    def open(self, slot: int, index: int, nonce: int) -> int:
        """A new session for the request in this place of the log; returns its id.

        Ids are unique over clusters and their lives, and nobody guesses one: a hash over the place,
        the client's random number and the cluster's identity.
        """
        while len(self._sessions) >= self._max_sessions:  # several if fewer are allowed now
            del self._sessions[next(iter(self._sessions))]
        attempt = 0
        session = self._id(slot, index, nonce, attempt)
        while session == 0 or session in self._sessions:  # 0 stands for "no session"
            attempt += 1
            session = self._id(slot, index, nonce, attempt)
        self._sessions[session] = Session(1, self.time, {})
        return session

    def _id(self, *place: int) -> int:
        text = msgspec.msgpack.encode(place)
        hashed = hashlib.blake2b(text, digest_size=8, key=self._identity).digest()
        return int.from_bytes(hashed, "big") >> 1

    def touch(self, entry: Entry) -> Session | None:
        """The session of a command about to execute, acknowledged replies dropped; None if gone."""
        session = self._sessions.pop(entry.session, None)
        if session is None:
            return None
        self._sessions[entry.session] = session  # now the most recently seen
        session.last_seen = self.time
        if entry.acked > session.floor:
            for seq in [seq for seq in session.replies if seq < entry.acked]:
                del session.replies[seq]
            session.floor = entry.acked
        return session

    def dump(self) -> bytes:
        """For the snapshot."""
        return msgspec.msgpack.encode(_Dump(self.time, self._sessions))

    def load(self, dump: bytes) -> None:
        loaded = msgspec.msgpack.decode(dump, type=_Dump)
        self.time = loaded.time
        self._sessions = loaded.sessions

    def reply_bytes(self) -> int:
        """The size of all replies kept."""
        return sum(
            len(reply.payload) for s in self._sessions.values() for reply in s.replies.values()
        )
