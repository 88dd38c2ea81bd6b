"""A cluster that is none: servers that share one state machine and agree without a protocol.

It answers clients exactly as servers do (sessions, redirects, refusals) and can be told to lose
messages, to be busy, to expire sessions and to change its leader. `FakeCluster` does no I/O;
`SocketCluster` puts it behind ROUTER sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from paxon.actors.ballot import Ballot
from paxon.actors.codecs import ClientPortCodec, port_codec
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.messages import (
    Addresses,
    Batch,
    ClientMessage,
    Command,
    CommandReply,
    Entry,
    NotLeader,
    OpenSession,
    Overloaded,
    Query,
    QueryReply,
    ReplyStatus,
    ServerReply,
    SessionOpened,
    StatusReply,
    StatusRequest,
    TellAddresses,
    overloaded,
)
from paxon.kvstore.store.store import KVStore


class FakeCluster:
    """Servers at `addresses`, the first of which leads."""

    def __init__(self, addresses: Sequence[str], machine: StateMachine | None = None) -> None:
        self.addresses = list(addresses)
        self.leader = self.addresses[0]
        self.hint: str | None = None
        """Where followers point to; None: to the leader."""
        replicated = machine or KVStore()
        self.application = Application(replicated, first_agreed({}, replicated.limits))
        self.time = 0
        self.busy = 0
        """So many commands and openings are refused as too many before the next is taken in."""
        self.most = 0
        """Longer commands are refused; 0: as agreed."""
        self.received: list[tuple[str, ClientMessage]] = []

    def serve(self, address: str, messages: Sequence[ClientMessage]) -> list[ServerReply]:
        """What the server at `address` answers to a frame."""
        replies: list[ServerReply] = []
        for message in messages:
            if isinstance(message, TellAddresses):
                replies.append(Addresses({}))
                continue
            self.received.append((address, message))
            reply = self._answer(address, message)
            if not (isinstance(reply, NotLeader) and replies and replies[-1] == reply):
                replies.append(reply)
        return replies

    def execute(self, entry: Entry) -> Any:
        slot = self.application.executed + 1
        batch = Batch(self.time, [entry])
        return self.application.execute(slot, encode_batch(batch), batch)[0][1]

    def expire_sessions(self) -> None:
        self.time += 2 * 3600 * 10**9

    def _answer(self, address: str, message: ClientMessage) -> ServerReply:
        if isinstance(message, StatusRequest):
            return self._status(address, message)
        stale = isinstance(message, Query) and message.mode == "stale"
        if address != self.leader and not stale:
            hint = self.leader if self.hint is None else self.hint
            if hint not in self.addresses:
                return NotLeader(0, "")
            return NotLeader(self.addresses.index(hint) + 1, hint)
        match message:
            case OpenSession() if self.busy > 0:
                self.busy -= 1
                return Overloaded(20, "busy")
            case OpenSession(nonce):
                reply = self.execute(Entry(0, nonce, 0, 0, b""))
                agreed = self.application.agreed
                return SessionOpened(
                    nonce, int.from_bytes(reply.payload, "big"),
                    self.application.machine.language, self.most or agreed.max_command_bytes,
                    agreed.max_outstanding,
                )  # fmt: skip
            case Command(session, seq, acked, after, command):
                if self.busy > 0:
                    self.busy -= 1
                    payload = overloaded("busy", 0.0)
                    return CommandReply(session, seq, ReplyStatus.OVERLOADED, payload)
                if len(command) > self.most > 0:
                    return CommandReply(session, seq, ReplyStatus.TOO_LARGE, b"too large")
                reply = self.execute(Entry(session, seq, acked, after, command))
                return CommandReply(session, seq, reply.status, reply.payload)
            case Query(number, _, query):
                reply = self.application.query(query)
                return QueryReply(number, reply.status, reply.payload)
            case _:
                raise AssertionError(f"unexpected {message!r}")

    def _status(self, address: str, request: StatusRequest) -> StatusReply:
        executed = self.application.executed
        return StatusReply(
            id=request.id,
            server=self.addresses.index(address) + 1,
            cluster="fake",
            role="leader" if address == self.leader else "follower",
            ballot=Ballot(1, 1),
            leader=self.addresses.index(self.leader) + 1,
            accepted=executed,
            chosen=executed,
            executed=executed,
            discarded=0,
            snapshot=0,
            uptime=1.0,
            disk_bytes=0,
            state_digest=self.application.digest() if request.state else "",
            counters={},
        )


class SocketCluster:
    """A `FakeCluster` of which each server has a ROUTER socket; one thread serves them all."""

    def __init__(self, servers: int = 3, machine: StateMachine | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._routers: dict[str, zmq.Socket[bytes]] = {}
        for _ in range(servers):
            router = self._context.socket(zmq.ROUTER)
            router.setsockopt(zmq.LINGER, 0)
            port = router.bind_to_random_port("tcp://127.0.0.1")
            self._routers[f"tcp://127.0.0.1:{port}"] = router
        self.cluster = FakeCluster(list(self._routers), machine)
        self.silent: set[str] = set()
        """Servers that read and neither act nor answer."""
        self.lose_replies: set[str] = set()
        """Servers that act and do not answer."""
        self.drop: Callable[[ClientMessage], bool] = lambda _message: False
        """Messages that never arrive."""
        self.raw_reply: bytes | None = None
        """Sent before each proper reply."""
        self.lock = threading.Lock()
        """Held while a frame is served; hold it to change the cluster."""
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def addresses(self) -> list[str]:
        return self.cluster.addresses

    def _run(self) -> None:
        codec = port_codec(1)
        stop = self._context.socket(zmq.PAIR)
        stop.connect("inproc://stop")
        poller = zmq.Poller()
        poller.register(stop, zmq.POLLIN)
        by_socket = {}
        for address, router in self._routers.items():
            poller.register(router, zmq.POLLIN)
            by_socket[router] = address
        while True:
            ready = dict(poller.poll())
            if stop in ready:
                stop.close()
                for router in self._routers.values():
                    router.close()
                return
            for router in ready:
                self._serve(router, by_socket[router], codec)

    def _serve(
        self,
        router: zmq.Socket[bytes],
        address: str,
        codec: ClientPortCodec,
    ) -> None:
        token, frame = router.recv_multipart()
        _, _, messages = codec.decode(frame)
        with self.lock:
            if address in self.silent:
                return
            arrived = [message for message in messages if not self.drop(message)]
            replies = self.cluster.serve(address, arrived)
            if address in self.lose_replies:
                return
        if self.raw_reply is not None:
            router.send_multipart([token, self.raw_reply])
        router.send_multipart([token, codec.encode(replies)])

    def close(self) -> None:
        self._stop.send(b"")
        self._thread.join()
        self._stop.close()
        self._context.term()
