"""A local cluster whose servers and clients reach each other through a relay only."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import msgspec
import zmq

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.client.addresses import with_port
from paxon.kvstore.cluster.cluster_file import ServerPlan
from paxon.kvstore.cluster.local_cluster import LocalCluster

__all__ = ["MAIN", "Network", "Node", "RelayedCluster"]

ROOT = Path(__file__).parents[3]
NOWHERE = "tcp://127.0.0.1:1"
"""Nobody listens there."""
MAIN = "main"
"""The group of clients that a client belongs to unless told otherwise."""

Node = ServerId | str
"""A server's id, or the name of a group of clients."""


class Network:
    """Controls the relay's process: what gets through between which nodes.

    Each method takes effect before it returns. Any thread may call any of them.
    """

    one_way = True

    def __init__(self, servers: Iterable[ServerId], *, seed: int = 1) -> None:
        self._servers = list(servers)
        self._groups = [MAIN]
        self._lock = threading.Lock()
        self._cut: set[tuple[str, str]] = set()
        self._stalled: set[tuple[str, str]] = set()
        self._loss = self._delay = self._jitter = 0.0
        self._fronts: dict[tuple[str | None, str, int], int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.networks.relay", str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    # --- faults ----------------------------------------------------------------------------------

    def partition(self, *parts: Iterable[Node], stall: bool = False) -> None:
        """Nodes reach those of their own part only; one that is in no part is alone.

        What crosses parts is lost, or with `stall` kept and delivered after the healing. Replaces
        any partition that there was.
        """
        where: dict[str, int] = {}
        for number, part in enumerate(parts):
            where.update((str(node), number) for node in part)
        nodes = [str(server) for server in self._servers]
        nodes += [group for group in {*self._groups, *where} if group not in nodes]
        barred = {
            (a, b)
            for a in nodes
            for b in nodes
            if a != b and (a not in where or b not in where or where[a] != where[b])
        }
        with self._lock:
            self._cut, self._stalled = (set(), barred) if stall else (barred, set())
            self._apply()

    def cut(self, a: Node, b: Node, *, one_way: bool = False) -> None:
        """Nothing gets from `a` to `b` any more, nor back unless `one_way`."""
        with self._lock:
            self._cut |= {(str(a), str(b))} if one_way else {(str(a), str(b)), (str(b), str(a))}
            self._apply()

    def mend(self, a: Node, b: Node) -> None:
        """Undo a cut."""
        with self._lock:
            self._cut -= {(str(a), str(b)), (str(b), str(a))}
            self._apply()

    def isolate(self, node: Node, *, stall: bool = False) -> None:
        """`node` reaches nobody and nobody reaches it; all others reach each other."""
        nodes: list[Node] = [*self._servers, *self._groups]
        others = [other for other in nodes if other != node]
        self.partition(others, [node], stall=stall)

    def weather(self, *, loss: float = 0.0, delay: float = 0.0, jitter: float = 0.0) -> None:
        """On all links: the fraction of messages lost, and the seconds that each takes."""
        with self._lock:
            self._loss, self._delay, self._jitter = loss, delay, jitter
            self._apply()

    def reset(self, a: Node, b: Node) -> None:
        """End the connections between two nodes; they may connect again at once."""
        with self._lock:
            self._ask({"do": "reset", "links": [(str(a), str(b)), (str(b), str(a))]})

    def join(self) -> None:
        """End all partitions and cuts; the weather stays."""
        with self._lock:
            self._cut, self._stalled = set(), set()
            self._apply()

    def heal(self) -> None:
        """Everything gets through again, at once."""
        with self._lock:
            self._cut, self._stalled = set(), set()
            self._loss = self._delay = self._jitter = 0.0
            self._apply()

    def counts(self) -> dict[str, int]:
        """Messages passed, lost to the weather and cut off, and connections, so far."""
        with self._lock:
            return self._ask({"do": "counts"})

    def lost(self) -> int:
        """Messages lost or cut off so far."""
        counts = self.counts()
        return counts["lost"] + counts["cut_off"]

    # --- the relay -------------------------------------------------------------------------------

    def front(self, source: str | None, target: str, address: str) -> str:
        """Where `source` (None: clients) reaches `target`, which listens at `address`."""
        port = int(address.rpartition(":")[2])
        with self._lock:
            key = (source, target, port)
            if key not in self._fronts:
                request = {"do": "open", "source": source, "target": target, "port": port}
                self._fronts[key] = self._ask(request)["port"]
            return with_port("127.0.0.1", self._fronts[key])

    def join_group(self, group: str) -> None:
        """There are clients of this name."""
        with self._lock:
            if group not in self._groups:
                self._groups.append(group)

    def close(self) -> None:
        """End the relay."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _apply(self) -> None:
        self._ask(
            {
                "do": "rules", "cut": sorted(self._cut), "stalled": sorted(self._stalled),
                "loss": self._loss, "delay": self._delay, "jitter": self._jitter,
            }
        )  # fmt: skip

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the relay has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class RelayedCluster(LocalCluster):
    """`LocalCluster` with a `Network` between all; status and probes go around it."""

    def __init__(
        self,
        servers: int = 3,
        directory: str | Path | None = None,
        *,
        seed: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(servers, directory, **options)
        self._seed = seed
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """Only of a started cluster."""
        assert self._network is not None, "the cluster is not started"
        return self._network

    def start(self) -> Self:
        self._network = Network(self.servers, seed=self._seed)
        try:
            return super().start()
        except BaseException:
            self._network.close()
            raise

    def stop(self) -> None:
        super().stop()
        if self._network is not None:
            self._network.close()
            self._network = None

    def client(self, group: str = MAIN, **options: Any) -> Client:
        """A client that dials the relay and says that it is one of `group`."""
        return Client(**self.doors(group), **options)

    def doors(self, group: str = MAIN) -> dict[str, Any]:
        """What makes any client dial the relay and say that it is one of `group`."""
        self.network.join_group(group)

        def introduce(socket: zmq.Socket[bytes], _address: str) -> None:
            socket.setsockopt(zmq.ROUTING_ID, group.encode())

        return {"servers": self._client_fronts(), "secure": introduce}

    def _client_fronts(self) -> list[str]:
        return [
            self.network.front(None, str(server), address)
            for server, address in zip(self.servers, self.addresses, strict=True)
        ]

    def _plan(self, server: ServerId, flags: dict[str, object] | None = None) -> ServerPlan:
        """What the server is told: it dials the relay, and that is where it sends clients to."""
        plan = super()._plan(server, flags)
        peers = {
            other: self.network.front(str(server), str(other), address)
            for other, address in plan.peers.items()
            if other != server
        }
        fronts = dict(zip(self.servers, self._client_fronts(), strict=True))
        settings = msgspec.structs.replace(plan.settings, client_addresses=fronts)
        # What it tells the others is of no use to them: they too are to dial the relay.
        mine = {server: NOWHERE}
        return msgspec.structs.replace(plan, settings=settings, peers=peers | mine)
