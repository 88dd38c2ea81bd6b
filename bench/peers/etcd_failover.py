"""From kill -9 of etcd's leader to the next acknowledged write."""

from __future__ import annotations

import random
import time

from paxon.actors import ServerId
from paxon.bench.harness.errors import BenchError
from paxon.bench.peers.etcd import EtcdCluster
from paxon.bench.peers.etcd_load import GrpcSocket
from paxon.bench.peers.grpc_wire import frame_message
from paxon.bench.peers.programs import Programs
from paxon.bench.peers.protobuf import PUT, put_request
from paxon.bench.stable.failover import Kill, Progress, kill_leaders

__all__ = ["etcd_kills", "PersistentWriter"]

_ATTEMPT_SECONDS = 0.05
"""After so long a client tries another member. etcd itself would keep a request for seconds that a
member has passed on to a leader that is gone."""
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.002
"""Between two attempts, so that the client does not eat the election's CPU."""


def etcd_kills(
    programs: Programs,
    servers: int,
    *,
    kills: int,
    value: bytes,
    chance: random.Random,
    progress: Progress,
) -> list[Kill]:
    """Kill the leader so many times, each time with all members up. Raises `BenchError`."""
    cluster = EtcdCluster(programs, servers)
    try:
        client = PersistentWriter(cluster.addresses, cluster.leader())
        try:
            return kill_leaders(
                _Killable(cluster), client,
                kills=kills, value=value, chance=chance, progress=progress,
            )  # fmt: skip
        finally:
            client.close()
    finally:
        cluster.close()


class _Killable:
    """etcd's members with ids from 1."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster

    def leader(self) -> ServerId:
        return self._cluster.leader() + 1

    def kill(self, server: ServerId) -> None:
        self._cluster.kill(server - 1)

    def bring_back(self, server: ServerId) -> None:
        self._cluster.restart(server - 1)


class PersistentWriter:
    """Writes one value at a time, to the next member whenever one fails or takes long."""

    def __init__(self, addresses: list[str], first: int) -> None:
        self._addresses = addresses
        self._place = first
        self._link: GrpcSocket | None = None

    def put(self, key: str, value: bytes) -> None:
        """See `Puts`. Raises `BenchError` after a long time without any success."""
        payload = frame_message(put_request(key.encode(), value))
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < give_up:
            if self._attempt(payload):
                return
            self._place = (self._place + 1) % len(self._addresses)
            time.sleep(_PAUSE_SECONDS)
        raise BenchError(f"etcd has acknowledged nothing for {_PATIENCE_SECONDS:g} s")

    def _attempt(self, payload: bytes) -> bool:
        """Whether the member at hand acknowledged it in time; else the connection is gone."""
        give_up = time.monotonic() + _ATTEMPT_SECONDS
        try:
            if self._link is None:
                self._link = GrpcSocket(self._addresses[self._place], PUT)
            self._link.request(payload)
            self._link.flush()
            while (remaining := give_up - time.monotonic()) > 0:
                for _, answer in self._link.receive(remaining):
                    if answer is not None:
                        return True
                    raise BenchError("refused: a member without a leader")
                self._link.flush()
        except (BenchError, TimeoutError):
            # Expected while there is no leader: the next member may know better.
            pass
        self.close()
        return False

    def close(self) -> None:
        """Give up the connection at hand; may be called twice."""
        if self._link is not None:
            self._link.close()
            self._link = None
