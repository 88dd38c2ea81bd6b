"""One fault scenario under way: its cluster, its clients, and the verdict at the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from paxon.actors import ServerId
from paxon.kvstore import Client
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.cluster.status import ServerStatus
from tests.cluster.helpers import wait_until
from tests.faults.load import Load, Verified
from tests.faults.networks.network import MAIN, Node

__all__ = ["LOSSY", "Faulty", "Outcome", "Trial", "all_equal", "at_once"]

LOSSY = CoreOptions(resend_after=0.02, retry_first=0.3, retry_max=0.3)
"""Clients on a network that loses messages. Over TCP none is lost while the connection lasts, so by
default a client that hears from the leader is in no hurry to ask again."""


class Breakable(Protocol):
    """What a network between processes can be made to do, by a relay or by the kernel."""

    one_way: bool
    """Whether `cut` can cut one direction alone."""

    def partition(self, *parts: Iterable[Node], stall: bool = False) -> None: ...

    def cut(self, a: Node, b: Node, *, one_way: bool = False) -> None: ...

    def join(self) -> None: ...

    def heal(self) -> None: ...

    def lost(self) -> int:
        """Messages that did not arrive so far, as far as anyone counts them."""


class Faulty(Protocol):
    """A cluster that scenarios can break."""

    @property
    def network(self) -> Breakable: ...

    @property
    def servers(self) -> list[ServerId]: ...

    def leader(self) -> ServerId: ...

    def status(self) -> list[ServerStatus]: ...

    def client(self, group: str = MAIN, **options: Any) -> Client: ...


ClusterT = TypeVar("ClusterT", bound=Faulty)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario that was survived (else it would have raised)."""

    name: str
    faults: int
    """How often something was broken."""
    messages_lost: int
    """Messages that were lost or cut off meanwhile, as far as anyone counts them."""
    seconds: float
    verified: Verified
    note: str = ""
    """What else was done and checked."""


class Trial(Generic[ClusterT]):
    """Runs clients against a cluster while a scenario breaks things; then judges what they saw."""

    def __init__(
        self,
        name: str,
        cluster: ClusterT,
        directory: Path,
        *,
        long: bool = False,
        seed: int = 1,
        groups: Sequence[str] = (MAIN,),
        clients: int = 4,
        readers: Collection[int] = (),
        timeout: float = 20.0,
        lossy: bool = False,
        pause: float = 0.002,
    ) -> None:
        """Args: clients belong to `groups` in turn, and each operation has `timeout` seconds."""
        self.name = name
        self.cluster = cluster
        self.long = long
        self.draw = random.Random(seed)
        self.faults = 0
        self._history = directory / f"{name}.jsonl"
        self._began = time.monotonic()
        self._lost_before = cluster.network.lost()
        options: dict[str, Any] = {"options": LOSSY} if lossy else {}
        self.members = {
            group: [n for n in range(clients) if n % len(groups) == index]
            for index, group in enumerate(groups)
        }
        self.load = Load(
            lambda number: cluster.client(groups[number % len(groups)], timeout=timeout, **options),
            clients=clients,
            readers=readers,
            seed=seed,
            prefix=f"{name}/",
            pause=pause,
        )

    def sized(self, short: int, long: int) -> int:
        """How much of something, in the short and in the long form."""
        return long if self.long else short

    def __enter__(self) -> Self:
        self.cluster.leader()
        self.load.__enter__()
        if self.load.answered:
            self.load.wait_for_more(50)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self.cluster.network.heal()
        self.load.stop()

    def fault(self, count: int = 1) -> None:
        """Something has been broken."""
        self.faults += count

    def followers(self) -> list[ServerId]:
        """All servers but the leader."""
        leader = self.cluster.leader()
        return [server for server in self.cluster.servers if server != leader]

    def verify(self) -> Outcome:
        """All that ran is healed: do all servers agree, and was nothing lost or out of order?"""
        wait_until(lambda: all_equal(self.cluster), "all servers agree on all slots")
        with self.cluster.client(timeout=20) as client:
            verified = self.load.verify(client, self._history)
        lost = self.cluster.network.lost() - self._lost_before
        return Outcome(self.name, self.faults, lost, time.monotonic() - self._began, verified)


def all_equal(cluster: Faulty) -> bool:
    """Whether all servers run and have executed the same slots to the same state."""
    replies = [row.reply for row in cluster.status() if row.reply is not None]
    states = {(reply.executed, reply.state_digest) for reply in replies}
    return len(replies) == len(cluster.servers) and len(states) == 1


def at_once(work: Callable[[ServerId], None], servers: Sequence[ServerId]) -> None:
    """Do something to several servers at the same time."""
    errors: list[BaseException] = []

    def run(server: ServerId) -> None:
        try:
            work(server)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
