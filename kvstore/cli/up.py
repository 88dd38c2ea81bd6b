"""`paxon up`: a local cluster in the foreground, with a live view where there is a terminal."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from loguru import logger
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from paxon.kvstore.cli.live_view import Rates, status_line, status_table
from paxon.kvstore.cli.outlet import Outlet
from paxon.kvstore.client.addresses import DEFAULT_BASE_PORT
from paxon.kvstore.cluster.local_cluster import CLUSTER_FILE, LocalCluster
from paxon.kvstore.cluster.status import ServerStatus

__all__ = ["run_up"]

_LIVE_SECONDS = 0.5
_PATIENCE_SECONDS = 3.0
"""After so long a start says what it waits for."""
_PLAIN_SECONDS = 10.0


class _Shown(LocalCluster):
    """Shows for whom its start waits."""

    console: Console
    _started_waiting = 0.0
    _shown: Sequence[str] = ()

    def _waiting_to_start(self, rows: list[ServerStatus]) -> None:
        now = time.monotonic()
        self._started_waiting = self._started_waiting or now
        silent = [row.server for row in rows if row.reply is None and row.state != "failed"]
        notes = _notes(rows) + [f"server {server} does not answer yet" for server in silent]
        if now - self._started_waiting >= _PATIENCE_SECONDS and notes != self._shown:
            self._shown = notes
            for note in notes:
                self.console.print(note, markup=False)


def run_up(
    servers: int,
    directory: Path | None,
    port: int,
    options: Mapping[str, object],
    metrics: int | None = None,
    *,
    etcd: int | None = None,
) -> int:
    """Run until Ctrl-C (exit code 0) or until every server has failed (exit code 1)."""
    out = cast("TextIO", Outlet(sys.stdout.fileno()))  # serving is not to wait for a reader
    console = Console(file=out, highlight=False, soft_wrap=True)
    logger.remove()  # the view below says all that the supervisor would log
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    cluster = _Shown(
        servers, directory, port=port, metrics=metrics, etcd=etcd or False,
        **cast("dict[str, Any]", options),
    )  # fmt: skip
    cluster.console = console
    try:
        with cluster:
            _introduce(console, cluster, servers, directory, port)
            if metrics is not None:
                last = metrics + len(cluster.servers) - 1
                more = f" … :{last}/metrics" if last > metrics else ""
                console.print(f"metrics: http://127.0.0.1:{metrics}/metrics{more}")
            if etcd is not None:
                console.print(f"etcd:   etcdctl --endpoints=127.0.0.1:{etcd} put motto 'the same'")
            watch = _watch_live if console.is_terminal else _watch_plainly
            return watch(console, cluster)
    except KeyboardInterrupt:
        console.print("stopped")
        return 0


def _introduce(
    console: Console, cluster: LocalCluster, wanted: int, directory: Path | None, port: int
) -> None:
    count = len(cluster.servers)
    servers, them = ("server", "it") if count == 1 else ("servers", "them all")
    console.print(f"[bold]Paxon[/bold]: {count} {servers} on this machine; Ctrl-C stops {them}")
    if directory is None:
        console.print("data: in a temporary directory, removed at the end (--dir DIR keeps it)")
    else:
        console.print(f"data and logs: {cluster.directory}", markup=False)
        if count != wanted:
            console.print(f"its members are those of before: {wanted} would be for a new directory")
    addresses = ",".join(cluster.addresses)
    option = "" if port == DEFAULT_BASE_PORT and count == 3 else f" --cluster {addresses}"
    if cluster.secure is not None:
        file = cluster.directory / CLUSTER_FILE
        console.print(f"shell:  paxon put motto 'fewer dictators' --cluster {file}", markup=False)
        console.print("Python: clients need that file's keys (docs/running/keys.md)", markup=False)
        return
    console.print(f"shell:  paxon put motto 'fewer dictators'{option}", markup=False)
    console.print(f'Python: from paxon import Client; Client("{addresses}")', markup=False)


def _all_failed(rows: list[ServerStatus]) -> bool:
    return all(row.state == "failed" for row in rows)


def _notes(rows: list[ServerStatus]) -> list[str]:
    failed = [f"server {row.server} failed: {row.reason}" for row in rows if row.state == "failed"]
    replies = [row.reply for row in rows if row.reply is not None]
    return failed + [f"server {r.server} waits: {r.waits_for}" for r in replies if r.waits_for]


def _watch_live(console: Console, cluster: LocalCluster) -> int:
    rates = Rates()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            rows = cluster.status(timeout=_LIVE_SECONDS / 2, state=False)
            notes = [Text(note, style="red") for note in _notes(rows)]
            live.update(
                Group(status_table(rows, rates.update(rows), width=console.width), *notes),
                refresh=True,
            )
            if _all_failed(rows):
                return 1
            time.sleep(_LIVE_SECONDS)


def _watch_plainly(console: Console, cluster: LocalCluster) -> int:
    """A line whenever something has changed but the figures, and now and then anyway."""
    rates = Rates()
    printed_at = float("-inf")
    shown: list[tuple[object, ...]] = []
    while True:
        rows = cluster.status(timeout=_LIVE_SECONDS / 2, state=False)
        state: list[tuple[object, ...]] = [
            (row.server, row.state, None if row.reply is None else row.reply.role) for row in rows
        ]
        now = time.monotonic()
        if state != shown or now >= printed_at + _PLAIN_SECONDS:
            console.print(status_line(rows, rates.update(rows)), markup=False)
            for note in _notes(rows):
                console.print(note, markup=False)
            shown, printed_at = state, now
        if _all_failed(rows):
            return 1
        time.sleep(_LIVE_SECONDS)
