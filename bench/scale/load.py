"""Many sessions from one process, to see what each costs the servers.

A `Client` is one session with sockets and a thread of its own; ten thousand of those would measure
the client's machine. Here one socket speaks for all of them: each command comes from the next
session in turn, with that session's own numbers, as the protocol wants it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import zmq

from paxon.actors import messages
from paxon.actors.codecs import client_codec
from paxon.actors.limits.turns import OPENINGS
from paxon.bench.harness.load import Answer, ClosedLoop, Job, Loop
from paxon.bench.harness.workloads import WorkloadData
from paxon.kvstore.errors import PaxonError, RequestTimeout
from paxon.kvstore.store.operations import Put, encode_operations
from paxon.transport import Context

__all__ = ["SessionLink", "open_sessions"]

_PATIENCE_SECONDS = 20.0
_ELECTION_SECONDS = 0.05
"""How long to leave a server alone that knows no leader."""

clock = time.perf_counter


class SessionLink:
    """Single writes, from many sessions in turn; see `Link`."""

    def __init__(self, job: Job, sessions: int) -> None:
        """Open the sessions at the first address, or where that says that the leader is.

        Raises `PaxonError` if they cannot be opened.
        """
        self._context = Context()
        self._codec = client_codec()
        self._address = job.addresses[0]
        self._outstanding = job.workload.outstanding
        data = WorkloadData(job.workload, job.seed)
        self._commands = [encode_operations([Put(key.encode(), data.value)]) for key in data.keys]
        self._place = 0
        self._turn: deque[int] = deque(self._open(sessions))
        """Sessions, the next one first."""
        self._next_seq = dict.fromkeys(self._turn, 1)
        self._answered = dict.fromkeys(self._turn, 0)
        """The highest number answered in each; answers of one session come in order."""
        self._started: dict[tuple[int, int], float] = {}

    def _dial(self) -> None:
        """Begin again, as another client. Answers that are on their way get lost."""
        self._context.destroy(linger=0)
        self._context = Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(self._address)

    def _receive(self, seconds: float) -> list[messages.ServerReply]:
        """The messages of one frame. Raises `RequestTimeout` if none comes."""
        if not self._socket.poll(round(seconds * 1000)):
            raise RequestTimeout("the leader does not answer")
        return list(self._codec.decode(self._socket.recv())[2])

    def _open(self, sessions: int) -> list[int]:
        """As many at a time as one client may open at once; the next ones as another client."""
        found: list[int] = []
        missing: set[int] = set()
        give_up_at = clock() + _PATIENCE_SECONDS
        while len(found) < sessions:
            if not missing:
                missing.update(range(len(found) + 1, min(len(found) + OPENINGS, sessions) + 1))
                self._dial()
                self._ask(missing)
            refusal = None
            for reply in self._receive(_PATIENCE_SECONDS):
                if not isinstance(reply, messages.SessionOpened):
                    refusal = reply
                elif reply.nonce in missing:
                    missing.remove(reply.nonce)
                    found.append(reply.session)
            if refusal is None:
                continue
            if isinstance(refusal, messages.NotLeader) and clock() < give_up_at:
                self._follow(refusal)
            elif isinstance(refusal, messages.Overloaded) and clock() < give_up_at:
                time.sleep(refusal.retry_after_ms / 1000)
            else:
                raise PaxonError(f"the leader opens no session: {refusal}")
            self._ask(missing)
        return found

    def _ask(self, nonces: set[int]) -> None:
        self._socket.send(self._codec.encode([messages.OpenSession(nonce) for nonce in nonces]))

    def _follow(self, refusal: messages.NotLeader) -> None:
        """Another server leads, or soon will."""
        if not refusal.address:
            time.sleep(_ELECTION_SECONDS)
        self._address = refusal.address or self._address
        self._dial()

    def top_up(self, now: float) -> None:
        """See `Link`: the next commands, each from the next session."""
        for _ in range(self._outstanding - len(self._started)):
            session = self._turn[0]
            self._turn.rotate(-1)
            seq = self._next_seq[session]
            self._next_seq[session] = seq + 1
            self._started[session, seq] = now
            self._place = (self._place + 1) % len(self._commands)
            self._send(session, seq)

    def _send(self, session: int, seq: int) -> None:
        acked = self._answered[session] + 1
        command = messages.Command(session, seq, acked, 0, self._commands[self._place])
        self._socket.send(self._codec.encode([command]))

    def take(self, seconds: float) -> list[Answer]:
        """See `Link`: the answers of one frame."""
        replies = self._receive(seconds)
        now = clock()
        answers: list[Answer] = []
        for reply in replies:
            if isinstance(reply, messages.NotLeader):
                self._follow(reply)
                for under_way in self._started:
                    self._send(*under_way)
                break
            if (
                not isinstance(reply, messages.CommandReply)
                or reply.status != messages.ReplyStatus.OK
            ):
                raise PaxonError(f"the leader executes no command: {reply}")
            answers.append((now - self._started.pop((reply.session, reply.seq)), None))
            self._answered[reply.session] = max(self._answered[reply.session], reply.seq)
        return answers

    def under_way(self) -> list[float]:
        return list(self._started.values())

    def close(self) -> None:
        """Disconnect; the sessions stay until they expire."""
        self._context.destroy(linger=0)


def open_sessions(job: Job, *, sessions: int) -> tuple[Loop, Callable[[], None]]:
    """The load of many sessions (see `OpenLoad`). Raises `PaxonError`."""
    link = SessionLink(job, sessions)
    return ClosedLoop(link), link.close
