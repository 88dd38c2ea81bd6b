"""etcd's side of `paxon bench coordination`: its own gRPC services, called from one thread.

Locks are taken through its lock service, which is the quickest way that it offers: the contender's
member does there what etcd's clients do else, and a contender, a thread as with Paxon, makes two
calls in all.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from paxon.bench.coordination.loads import OTHER_KEY, WATCHED_KEY, LockLoop
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Answer, ClosedLoop, Job, Loop, Outcome, clock
from paxon.bench.harness.workloads import WorkloadData
from paxon.bench.peers import etcd_load as api
from paxon.bench.peers.etcd_load import GrpcLink, GrpcSocket, Listening, ask_all, framed, parsed
from paxon.kvstore.etcd.messages import message

__all__ = ["open_etcd"]

_LONG_LEASE_SECONDS = 600
"""Of contenders for a lock: longer than any run."""
_GRANTED_AT_ONCE = 1000
_ROUNDS = 3
"""A lease is renewed so many times while it lives, as by Paxon's client."""
_GREATER, _VERSION = 1, 0
"""What a comparison of a transaction is called on the wire."""


def open_etcd(job: Job) -> tuple[Loop, Callable[[], None]]:
    """Connect as a job says; see `OpenLoad`. Raises `BenchError`."""
    load, address = job.workload, job.addresses[0]
    if load.kind == "lock":
        stack = contextlib.ExitStack()
        contenders = [_Contender(address) for _ in range(load.outstanding)]
        for one in contenders:
            stack.callback(one.close)
        return LockLoop(contenders), stack.close
    if load.kind == "watch":
        watches = WatchLink(job)
        return ClosedLoop(watches), watches.close
    if load.kind == "renew":
        leases = RenewLoop(address, load.outstanding, load.seconds)
        return leases, leases.close
    if load.kind == "txn":
        link = GrpcSocket(address, api.TXN)
        return ClosedLoop(GrpcLink([link], _transactions(job), load.outstanding)), link.close
    idle = _watch(address, [OTHER_KEY % number for number in range(load.watches)])
    loop, close = api.open_etcd_load("one", job)

    def close_all() -> None:
        idle.close()
        close()

    return loop, close_all


def _transactions(job: Job) -> list[bytes]:
    """If the key is there it is written, else it is written too: each is a write."""
    data, made = WorkloadData(job.workload, job.seed), []
    for key in map(str.encode, data.keys):
        compare = message("Compare")(result=_GREATER, target=_VERSION, key=key, version=0)
        written = message("PutRequest")(key=key, value=data.value)
        put = message("RequestOp")(request_put=written)
        made.append(framed(api.TXN, compare=[compare], success=[put], failure=[put]))
    return made


def _watch(address: str, keys: Sequence[bytes]) -> GrpcSocket:
    """A connection that watches each of these, in one stream, from now on."""
    link, create = GrpcSocket(address, api.WATCH), message("WatchCreateRequest")
    asked = [framed(api.WATCH, create_request=create(key=key)) for key in keys]
    ask_all(link, asked, link.say)
    return link


class WatchLink:
    """A writer, and so many watchers of what it writes on a connection of their own; see `Link`."""

    def __init__(self, job: Job) -> None:
        address, load = job.addresses[0], job.workload
        self._watchers = load.watches
        self._watching = _watch(address, [WATCHED_KEY.encode()] * load.watches)
        self._writing = GrpcSocket(address, api.PUT)
        self._put = api.put_payload(WATCHED_KEY, WorkloadData(load, job.seed).value)
        self._listening = Listening((self._watching, self._writing))
        self._started: float | None = None
        self._put_at = 0
        """The revision of the write under way, once it is known."""
        self._told: dict[int, int] = {}
        """By watcher: the revision that it was told of."""

    def top_up(self, now: float) -> None:
        if self._started is None:
            self._started = now
            self._writing.request(self._put)
        self._writing.flush()
        self._watching.flush()

    def take(self, seconds: float) -> list[Answer]:
        for link in self._listening.wait(seconds):
            for _, answer in link.receive(None):
                if answer is None:
                    raise BenchError("etcd has ended a watch, or refused a write")
                if link is self._writing:
                    self._put_at = parsed(api.PUT, answer).header.revision
                else:
                    self._hear(parsed(api.WATCH, answer))
        if not self._put_at or len(self._told) < self._watchers or self._started is None:
            return []
        if set(self._told.values()) != {self._put_at}:
            raise BenchError("a watcher of etcd was not told of the write")
        taken, self._started, self._put_at = self._all_at - self._started, None, 0
        self._told.clear()
        return [(taken, None)]

    def _hear(self, response: Any) -> None:
        for event in response.events:
            if response.watch_id in self._told:
                raise BenchError("a watcher of etcd was told of a write twice")
            self._told[response.watch_id] = event.kv.mod_revision
        self._all_at = clock()

    def under_way(self) -> list[float]:
        return [] if self._started is None else [self._started]

    def close(self) -> None:
        """Disconnect; etcd forgets the watches then."""
        self._watching.close()
        self._writing.close()


class _Contender:
    """One that locks and unlocks, with connections and a lease of its own; see `LockLoop`."""

    def __init__(self, address: str) -> None:
        self._lease = int(api.call(address, api.GRANT, TTL=_LONG_LEASE_SECONDS).ID)
        self._links = [GrpcSocket(address, method) for method in (api.LOCK, api.UNLOCK)]
        self._address = address

    def __enter__(self) -> None:
        answer = self._links[0].demand(framed(api.LOCK, name=b"lock", lease=self._lease))
        self._key = parsed(api.LOCK, answer).key

    def __exit__(self, *_: object) -> None:
        self._links[1].demand(framed(api.UNLOCK, key=self._key))

    def close(self) -> None:
        """Disconnect, and end the lease."""
        api.call(self._address, api.REVOKE, ID=self._lease)
        for link in self._links:
            link.close()


class RenewLoop:
    """Keeps leases alive on one stream, each three times in its life; see `Loop`."""

    def __init__(self, address: str, leases: int, seconds: float) -> None:
        self._address = address
        self._lives = seconds
        self._ids: list[int] = []
        self._renewals: list[bytes] = []
        self._link = GrpcSocket(address, api.KEEP_ALIVE)
        grant = framed(api.GRANT, TTL=round(seconds))
        link = GrpcSocket(address, api.GRANT)
        while len(self._ids) < leases:
            few = [grant] * min(_GRANTED_AT_ONCE, leases - len(self._ids))
            self._ids += [parsed(api.GRANT, it).ID for it in ask_all(link, few, link.request)]
            self._renewals = [framed(api.KEEP_ALIVE, ID=number) for number in self._ids]
            ask_all(self._link, self._renewals, self._link.say)  # or the first would end by now
        link.close()

    def run(self, seconds: float) -> Outcome:
        """Renew them evenly."""
        outcome = Outcome()
        interval = self._lives / _ROUNDS / len(self._renewals)
        due = itertools.cycle(self._renewals)
        began, sent = clock(), 0
        while (now := clock()) < began + seconds:
            for _ in range(round((now - began) / interval) - sent):
                self._link.say(next(due))
                sent += 1
            self._link.flush()
            try:
                found = self._link.receive(0.0)
            except TimeoutError:
                time.sleep(0.01)
                continue
            for _, answer in found:
                if not answer or parsed(api.KEEP_ALIVE, answer).TTL <= 0:
                    raise BenchError("etcd let a lease end that was renewed in time")
                outcome.operations += 1
        outcome.seconds = clock() - began
        return outcome

    def close(self) -> None:
        """End the leases."""
        self._link.close()
        link = GrpcSocket(self._address, api.REVOKE)
        revocations = [framed(api.REVOKE, ID=number) for number in self._ids]
        with contextlib.suppress(BenchError):  # some have ended
            ask_all(link, revocations, link.request)
        link.close()
