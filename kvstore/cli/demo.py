"""`paxon demo`: the main job in under a minute, told step by step, with real processes and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from paxon.actors import ServerId
from paxon.kvstore.cli.demo_load import Load, missing_writes, outage, sparkline
from paxon.kvstore.cli.live_view import status_line, status_table
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.cluster.logs import log_to_stderr
from paxon.kvstore.cluster.status import ServerStatus
from paxon.kvstore.errors import PaxonError

__all__ = ["run_demo"]

_CLIENTS = 4
_WAIT_SECONDS = 20.0
"""How long anything in the demo may take before it counts as failed."""


class DemoFailed(PaxonError):
    """Something that must hold did not; the text says what."""


class Story:
    """Prints the steps; with a terminal, a spinner shows that something is going on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.unicode = (console.encoding or "").lower().startswith("utf")
        self._started = time.monotonic()

    def tell(self, text: str) -> None:
        """A line with the seconds since the start in front."""
        self.console.print(f"[dim]{time.monotonic() - self._started:5.1f} s[/dim]  {text}")

    def more(self, text: str) -> None:
        """A line that belongs to the one before."""
        self.console.print(f"         {text}")

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """While inside, a terminal shows `text` with a spinner; a log shows nothing."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            with self.console.status(text, spinner="dots" if self.unicode else "line"):
                yield
        else:
            yield


def run_demo(servers: int = 3, seconds: float = 3.0, directory: Path | None = None) -> int:
    """Tell the story; 0 if all went as it must, 1 with a sentence if anything did not.

    Data and logs are kept in `directory`, if one is given.
    """
    console = Console(highlight=False, soft_wrap=True)
    log_to_stderr()
    story = Story(console)
    try:
        with story.busy("starting servers"):
            cluster = LocalCluster(servers, directory).start()
        with cluster:
            try:
                _story(story, cluster, seconds)
            except PaxonError:
                console.print(status_line(cluster.status()), markup=False)
                raise
    except PaxonError as error:
        console.print("[bold red]The demo failed:[/bold red]", Text(str(error)))
        return 1
    if directory is None:
        story.tell("servers stopped, temporary directory removed")
    else:
        story.tell(f"servers stopped; data and logs are in {directory}")
    return 0


def _story(story: Story, cluster: LocalCluster, seconds: float) -> None:
    leader = _introduce(story, cluster)
    _first_data(story, cluster)
    load = Load(_CLIENTS, lambda: cluster.client(timeout=_WAIT_SECONDS))
    try:
        load.start()
        killed_at = _kill_leader(story, cluster, load, leader, seconds)
        if len(cluster.servers) > 2:  # else no majority is left that could elect another
            _fail_over(
                story, cluster, load, old_leader=leader, killed_at=killed_at, seconds=seconds
            )
        _bring_back(story, cluster, load, leader)
    finally:
        load.end()
    _show_timeline(story, load, killed_at)
    _compare(story, cluster)
    _verify(story, cluster, load)


def _introduce(story: Story, cluster: LocalCluster) -> ServerId:
    rows = cluster.status()
    pids = ", ".join(str(row.pid) for row in rows)
    count = "1 server" if len(rows) == 1 else f"{len(rows)} servers"
    story.tell(
        f"[bold]{count}[/bold] started, each a process of its own (pids {pids}), "
        "every write synced to disk"
    )
    with story.busy("electing a leader"):
        leader = cluster.leader(_WAIT_SECONDS)
    story.tell(
        f"server [bold]{leader}[/bold] leads with ballot [bold]{_ballot(cluster, leader)}[/bold]"
    )
    return leader


def _ballot(cluster: LocalCluster, server: ServerId) -> str:
    for row in cluster.status():
        if row.server == server and row.reply is not None:
            return str(row.reply.ballot)
    return "unknown"


def _first_data(story: Story, cluster: LocalCluster) -> None:
    with cluster.client(timeout=_WAIT_SECONDS) as store:
        store.put("motto", b"fewer dictators")
        store.append("motto", b", more quorums")
        motto = store.get("motto")
    if motto != b"fewer dictators, more quorums":
        raise DemoFailed(f"the motto reads {motto!r}")
    story.tell(f"put, append and get work: motto = [green]{motto.decode()}[/green]")


def _kill_leader(
    story: Story, cluster: LocalCluster, load: Load, leader: ServerId, seconds: float
) -> float:
    """Let the load run for a while, then kill the leader; when that was."""
    with story.busy(f"{_CLIENTS} clients write and read"):
        time.sleep(seconds)
    load.check()
    elapsed = time.monotonic() - load.started_at
    story.tell(
        f"{_CLIENTS} clients write and read: {load.writes:,} writes acknowledged so far, "
        f"{load.writes / elapsed:,.0f} a second"
    )
    killed_at = time.monotonic()
    cluster.kill(leader)
    story.tell(f"[bold red]kill -9[/bold red] of server {leader}, the leader, amid the load")
    return killed_at


def _fail_over(
    story: Story,
    cluster: LocalCluster,
    load: Load,
    *,
    old_leader: ServerId,
    killed_at: float,
    seconds: float,
) -> None:
    with story.busy("failing over"):
        new_leader = cluster.leader(_WAIT_SECONDS)
        writes = load.writes
        _wait_for(lambda: load.writes >= writes + _CLIENTS, "no write was acknowledged again")
    story.tell(
        f"server [bold]{new_leader}[/bold] took over with ballot "
        f"[bold]{_ballot(cluster, new_leader)}[/bold]"
    )
    with story.busy("the load goes on with one server less"):
        time.sleep(seconds)
    load.check()
    pause = outage(load.times(), killed_at)
    if pause is None or new_leader == old_leader:
        raise DemoFailed("no write was acknowledged after the leader was killed")
    story.tell(
        f"failover took [bold]{(pause[1] - killed_at) * 1000:.0f} ms[/bold], from the kill to the "
        "next acknowledged write; no client saw an error"
    )


def _bring_back(story: Story, cluster: LocalCluster, load: Load, server: ServerId) -> None:
    """Restart the killed server under load and wait until it has caught up."""
    behind_from = _executed(cluster.status())
    restarted_at = time.monotonic()
    with story.busy(f"server {server} restarts and catches up"):
        cluster.restart(server)
        target = max(_executed(cluster.status()).values(), default=0)
        _wait_for(
            lambda: _executed(cluster.status()).get(server, 0) >= target,
            f"server {server} did not catch up",
        )
    load.check()
    meanwhile = "load went on" if len(cluster.servers) > 2 else "clients waited"
    newest = max(behind_from.values(), default=0)
    story.tell(
        f"server {server} restarted and caught up to slot {max(target, newest):,} in "
        f"{time.monotonic() - restarted_at:.1f} s, while the {meanwhile}"
    )


def _executed(rows: Sequence[ServerStatus]) -> dict[ServerId, int]:
    return {row.server: row.reply.executed for row in rows if row.reply is not None}


def _show_timeline(story: Story, load: Load, killed_at: float) -> None:
    times = load.times()
    start, end = load.started_at, load.ended_at
    width = max(20, min(60, story.console.width - 20))
    bars = sparkline(times, start, end, width, ascii_only=not story.unicode)
    mark = min(width - 1, int((killed_at - start) / (end - start) * width))
    story.tell(f"acknowledged writes over the {end - start:.1f} s of load:")
    story.more(f"[green]{bars}[/green]")
    story.more(" " * mark + "^ kill -9")


def _compare(story: Story, cluster: LocalCluster) -> None:
    """All servers must come to the same slot and the same state."""
    rows: list[ServerStatus] = []

    def agree() -> bool:
        rows[:] = cluster.status()
        return _agree(rows)

    with story.busy("comparing logs and stores"):
        _wait_for(agree, "the servers' logs and stores differ")
    story.console.print(status_table(rows, width=0, digest=True))
    replies = [row.reply for row in rows if row.reply is not None]
    story.tell(
        f"all {len(replies)} servers executed the same [bold]{replies[0].executed:,} slots[/bold]; "
        f"fingerprint of every store: [bold]{replies[0].state_digest[:12]}[/bold]"
    )


def _agree(rows: Sequence[ServerStatus]) -> bool:
    replies = [row.reply for row in rows if row.reply is not None]
    if len(replies) < len(rows):
        return False
    first = replies[0]
    return all(
        reply.executed == first.executed
        and reply.chosen == first.chosen
        and reply.state_digest == first.state_digest
        and reply.state_digest != ""
        for reply in replies
    )


def _verify(story: Story, cluster: LocalCluster, load: Load) -> None:
    with story.busy("reading everything back"), cluster.client(timeout=_WAIT_SECONDS) as store:
        found, wrong = missing_writes(load, store)
    if wrong:
        raise DemoFailed(f"{len(wrong)} acknowledged writes are not as they were: {wrong[0]}")
    story.tell(
        f"[bold green]all {found:,} acknowledged writes are there[/bold green], every append "
        f"exactly once; {load.reads:,} reads saw what had been written before them"
    )


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    """Look until `condition` holds. Raises `DemoFailed` if it takes too long."""
    end = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() >= end:
            raise DemoFailed(f"{otherwise} within {_WAIT_SECONDS:.0f} s")
        time.sleep(0.02)
