"""Replicate your own class: a counter, a dictionary and a queue of jobs that come back.

python examples/own_class.py
"""

from __future__ import annotations

from paxon import LocalCluster, Replicated, calls, command, query
from paxon.testing import MemoryCluster


class Counter(Replicated):
    """A number."""

    def __init__(self) -> None:
        self.total: int = 0

    @command
    def increment(self) -> int:
        self.total += 1
        return self.total

    @command
    def add(self, value: int) -> int:
        self.total += value
        return self.total

    @query
    def get(self) -> int:
        return self.total


class Dictionary(Replicated):
    """Values by key."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    @command
    def set(self, key: str, value: bytes) -> None:
        self.data[key] = value

    @command
    def pop(self, key: str) -> bytes | None:
        return self.data.pop(key, None)

    @query
    def get(self, key: str) -> bytes | None:
        return self.data.get(key)


class Jobs(Replicated):
    """What a worker takes comes back after ten seconds of the log's time, unless it is done."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.taken: dict[str, int] = {}

    @command
    def put(self, job: str) -> int:
        self.waiting.append(job)
        return len(self.waiting)

    @command(raises=(IndexError,))
    def take(self) -> str:
        job = self.waiting.pop(0)
        self.taken[job] = self.timers.after(10, self.give_back, job)
        return job

    @command
    def give_back(self, job: str) -> None:
        del self.taken[job]
        self.waiting.append(job)

    @command(raises=(KeyError,))
    def done(self, job: str) -> None:
        self.timers.cancel(self.taken.pop(job))


def main() -> None:
    """Three processes for the counter, one of which dies; one server in memory for the others."""
    with LocalCluster(servers=3, machine=Counter) as cluster, cluster.proxy(Counter) as counter:
        print("one:", counter.increment())
        with calls(counter).pipeline() as pipeline:
            futures = [pipeline.add(counter.add, number) for number in range(100)]
        print("added up:", futures[-1].result())
        cluster.kill(cluster.leader())
        print("without its leader:", counter.get())

    with MemoryCluster(Dictionary) as memory, memory.proxy(Dictionary) as motto:
        motto.set("motto", b"fewer dictators")
        memory.restart()
        print("after a restart:", motto.get("motto"), motto.pop("motto"), motto.get("motto"))

    with MemoryCluster(Jobs) as memory, memory.proxy(Jobs) as jobs:
        for name in ("sweep", "cook"):
            jobs.put(name)
        print("taken:", jobs.take(), jobs.take())
        jobs.done("cook")
        memory.let_pass(10)
        print("came back:", jobs.take())
        try:
            jobs.take()
        except IndexError as error:
            print("then:", error)


if __name__ == "__main__":
    main()
