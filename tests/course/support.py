"""What the course's tests share besides fixtures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from paxon.kvstore.cluster.status import ServerStatus
from tests.cluster.helpers import wait_until
from tests.faults.networks.network import RelayedCluster
from tests.faults.probes import LogProbe, check_logs
from tests.faults.trial import LOSSY
from tests.waiting import running_seconds

__all__ = ["LOSSY", "PATIENCE", "within", "together", "check_at_rest", "counters", "retained_bytes"]


PATIENCE = 60.0
"""Seconds that a client's operation may take on a busy machine; how long it does is `within`'s."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, the time left out in which this machine stood."""
    began = running_seconds()
    yield
    assert running_seconds() - began < seconds


def together(works: Iterable[Callable[[], None]], seconds: float = 60.0) -> None:
    """Run each in a thread of its own; fail with the first error of any."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), f"not done within {seconds} s"
    if errors:
        raise errors[0]


def rows(cluster: RelayedCluster) -> list[ServerStatus]:
    """All servers' status, once each has answered: a busy one may take longer than a look lasts."""
    found: list[ServerStatus] = []

    def all_answer() -> bool:
        found[:] = cluster.status()
        return all(row.reply is not None for row in found)

    wait_until(all_answer, "all servers say how they are")
    return found


def check_at_rest(cluster: RelayedCluster, probe: LogProbe) -> None:
    """Once all is healed and nobody asks for anything, all logs and states are the same."""

    def equal() -> bool:
        replies = [row.reply for row in cluster.status() if row.reply is not None]
        states = {(reply.executed, reply.chosen, reply.state_digest) for reply in replies}
        return len(replies) == len(cluster.servers) and len(states) == 1

    wait_until(equal, "all servers have executed the same to the same state")
    logs = probe.logs()
    check_logs(logs)
    # Beyond what is chosen there may be values that a leader in a minority proposed in vain.
    chosen = max(row.reply.chosen for row in rows(cluster) if row.reply is not None)
    for log in logs.values():
        for slot in range(log.first_non_cleared(), chosen + 1):
            assert log.status(slot) == "CHOSEN", f"server {log.server} has not chosen slot {slot}"


def counters(cluster: RelayedCluster, *names: str) -> int:
    """The sum of these counters over all servers."""
    replies = [row.reply for row in rows(cluster) if row.reply is not None]
    return sum(reply.counters[name] for reply in replies for name in names)


def retained_bytes(cluster: RelayedCluster) -> list[int]:
    """Bytes that each server holds in its log and for its sessions."""
    replies = [row.reply for row in rows(cluster) if row.reply is not None]
    return [r.counters["log_bytes"] + r.counters["session_reply_bytes"] for r in replies]
