"""Many sessions from one process, to see what each costs the servers.

A `Client` is one session with sockets and a thread of its own; ten thousand of those would measure
the client's machine. Here one socket speaks for all of them: each command comes from the next
session in turn, with that session's own numbers, as the protocol wants it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from paxon.actors.messages import (
    PROTOCOL_VERSION,
    ClientMessage,
    Command,
    CommandReply,
    OpenSession,
    ReplyStatus,
    ServerReply,
    SessionOpened,
)
from paxon.bench.load import Loop, Outcome
from paxon.bench.load_process import Job
from paxon.bench.workloads import WorkloadData
from paxon.kvstore.errors import PaxonError, RequestTimeout
from paxon.kvstore.operations import Put, encode_operations
from paxon.transport import FrameCodec

__all__ = ["SessionLoop", "open_sessions"]

_OPEN_AT_ONCE = 500
_PATIENCE_SECONDS = 20.0

clock = time.perf_counter


class _Link:
    """One socket to one server."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._codec: FrameCodec[ClientMessage, ServerReply] = FrameCodec(
            ClientMessage, ServerReply, protocol_version=PROTOCOL_VERSION
        )

    def send(self, messages: Sequence[ClientMessage]) -> None:
        self._socket.send(self._codec.encode(messages))

    def receive(self, timeout: float) -> list[ServerReply]:
        """The messages of one frame. Raises `RequestTimeout` if none comes."""
        if not self._socket.poll(round(timeout * 1000)):
            raise RequestTimeout(f"the leader has not answered for {timeout:g} s")
        replies: list[ServerReply] = self._codec.decode(self._socket.recv())[2]
        return replies

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class SessionLoop:
    """A closed loop of single writes, from many sessions in turn."""

    def __init__(self, job: Job, sessions: int) -> None:
        """Open the sessions at the first address, which has to be the leader's.

        Raises `PaxonError` if it does not do what it is asked.
        """
        self._link = _Link(job.addresses[0])
        self._outstanding = job.workload.outstanding
        data = WorkloadData(job.workload, job.seed)
        self._commands = [encode_operations([Put(key, data.value)]) for key in data.keys]
        self._place = 0
        self._turn: deque[int] = deque(self._open(sessions))
        """Sessions, the next one first."""
        self._next_seq = dict.fromkeys(self._turn, 1)
        self._answered = dict.fromkeys(self._turn, 0)
        """The highest number answered in each; answers of one session come in order."""
        self._started: dict[tuple[int, int], float] = {}

    def _open(self, sessions: int) -> list[int]:
        found: list[int] = []
        while len(found) < sessions:
            wanted = min(_OPEN_AT_ONCE, sessions - len(found))
            self._link.send([OpenSession(len(found) + nonce + 1) for nonce in range(wanted)])
            reached = len(found) + wanted
            while len(found) < reached:
                for reply in self._link.receive(_PATIENCE_SECONDS):
                    if not isinstance(reply, SessionOpened):
                        raise PaxonError(f"the leader opens no session: {reply}")
                    found.append(reply.session)
        return found

    def run(self, seconds: float) -> Outcome:
        """See `Loop`. What is under way at the end is waited for, but not counted."""
        outcome = Outcome()
        begin = clock()
        end = begin + seconds
        self._send(self._outstanding)
        while clock() < end:
            self._send(self._take(outcome))
        outcome.seconds = clock() - begin
        outcome.operations = len(outcome.latencies)
        rest = Outcome()
        while self._started:
            self._take(rest)
        return outcome

    def _send(self, count: int) -> None:
        """The next commands, each from the next session."""
        turn, commands = self._turn, self._commands
        now = clock()
        for _ in range(count):
            session = turn[0]
            turn.rotate(-1)
            seq = self._next_seq[session]
            self._next_seq[session] = seq + 1
            self._started[session, seq] = now
            self._place = (self._place + 1) % len(commands)
            acked = self._answered[session] + 1
            self._link.send([Command(session, seq, acked, 0, commands[self._place])])

    def _take(self, outcome: Outcome) -> int:
        """The answers of one frame; returns how many."""
        replies = self._link.receive(_PATIENCE_SECONDS)
        now = clock()
        for reply in replies:
            if not isinstance(reply, CommandReply) or reply.status != ReplyStatus.OK:
                raise PaxonError(f"the leader executes no command: {reply}")
            outcome.latencies.append(now - self._started.pop((reply.session, reply.seq)))
            self._answered[reply.session] = max(self._answered[reply.session], reply.seq)
        return len(replies)

    def close(self) -> None:
        """Disconnect; the sessions stay until they expire."""
        self._link.close()


def open_sessions(job: Job, *, sessions: int) -> tuple[Loop, Callable[[], None]]:
    """The load of many sessions (see `paxon.bench.load_process.OpenLoad`). Raises `PaxonError`."""
    loop = SessionLoop(job, sessions)
    return loop, loop.close
