"""What processes do together: lock, election, party, barriers, queues, counter, dictionary.

Each function is all that one process needs. Here they run as threads, on a cluster in memory; a
`Client("host:7111,…")` of a real one does the same.

    python examples/coordination.py
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from paxon import Client, Leadership, NotAcquired, Put, ReplicatedDict
from paxon.testing import MemoryCluster

ALL = 3
"""Processes that take part."""


def lock(kv: Client, me: str) -> None:
    """One at a time; a holder that lost the lock, and has not noticed, writes nothing."""
    with kv.lock("deploy", ttl=10) as held:
        before = kv.get("deployed") or b""
        kv.transact(lambda t: t.put("deployed", before + me.encode()), if_=[held])


def election(kv: Client, me: str) -> None:
    """One leads until its function returns or it dies; then the next one does."""

    def lead(leading: Leadership) -> None:
        kv.txn(if_=[leading], then=[Put(f"reigned/{me}", str(leading.fence))])

    kv.election("cron").run(lead, me)


def party(kv: Client, me: str) -> int:
    """Who is there: members that leave, or die, are gone."""
    with kv.members("party").join(me):
        kv.barrier("all have come", ALL).wait()
        seen = len(kv.members("party").list())
        kv.barrier("all have seen all", ALL).wait()
    return seen


def barrier(kv: Client, me: str) -> int:
    """Nobody goes on before all have come."""
    kv.put(f"came/{me}", "")
    kv.barrier("start", ALL).wait(timeout=60)
    return len(kv.scan("came/"))


def double_barrier(kv: Client, me: str) -> int:
    """All begin together, and end together."""
    with kv.double_barrier("round", ALL).enter(timeout=60):
        kv.put(f"worked/{me}", "")
    return len(kv.scan("worked/"))


def queue(kv: Client, me: str) -> int:
    """Each item is done once: the item of one that dies is there again for the others."""
    for done in count():
        try:
            item = kv.queue("jobs").get(timeout=0)
        except NotAcquired:
            return done
        item.done(then=[Put(f"result/{item.value.decode()}", me)])
    raise AssertionError("it counts for ever")


def priority_queue(kv: Client) -> list[bytes]:
    """The lowest number comes first."""
    jobs = kv.priority_queue("urgent")
    jobs.put("later", 200)
    jobs.put("now", 1)
    return [jobs.get().value, jobs.get().value]


def counter(kv: Client, _: str) -> int:
    """A number that all add to."""
    return kv.increment("hits", 2) + kv.increment("hits", -1)


def together(cluster: MemoryCluster, act: Callable[[Client, str], object]) -> list[object]:
    """Have a few processes do it, each with a client of its own."""

    def process(name: str) -> object:
        with cluster.client() as kv:
            return act(kv, name)

    with ThreadPoolExecutor(ALL) as pool:
        return list(pool.map(process, "abc"))


def main() -> None:
    """Each of them once, by three processes."""
    with MemoryCluster() as cluster, cluster.client() as kv:
        together(cluster, lock)
        print("held one after the other:", sorted((kv.get("deployed") or b"").decode()))
        together(cluster, election)
        print("led with fences that rise:", len({fence for _, fence in kv.scan("reigned/")}))
        seen = together(cluster, party)
        print("at the party:", seen, "and afterwards:", kv.members("party").list())
        print("came before anybody went on:", together(cluster, barrier))
        print("had worked before anybody left:", together(cluster, double_barrier))
        kv.queue("jobs").put_many(str(number) for number in range(30))
        done = together(cluster, queue)
        print("items done:", sum(map(int, map(str, done))), "results:", len(kv.scan("result/")))
        print("most urgent first:", priority_queue(kv))
        together(cluster, counter)
        print("hits:", kv.increment("hits", 0))

    with MemoryCluster(ReplicatedDict) as cluster, cluster.proxy(ReplicatedDict) as colours:
        colours["sky"] = "blue"
        print("a dictionary:", dict(colours))


if __name__ == "__main__":
    main()
