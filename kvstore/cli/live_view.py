"""Rows of servers as a table for people, as plain lines for logs, and as JSON for machines."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paxon.actors import ServerId
from paxon.actors.messages import StatusReply
from paxon.kvstore.cluster.health import members, problems
from paxon.kvstore.cluster.meanings import meaning_of
from paxon.kvstore.cluster.status import ServerStatus

__all__ = [
    "Rates",
    "counters_explained",
    "in_bytes",
    "in_time",
    "status_json",
    "status_line",
    "status_table",
    "watch_status",
]

_ROLE_STYLES = {"leader": "bold green", "candidate": "yellow", "follower": "", "no member": "dim"}


class Rates:
    """Commands a second of each server, from how its counters move between two looks."""

    def __init__(self) -> None:
        self._before: dict[ServerId, tuple[float, int, float]] = {}

    def update(self, rows: Sequence[ServerStatus]) -> dict[ServerId, float]:
        """Commands executed and queries answered, a second, since the last call."""
        now = time.monotonic()
        rates: dict[ServerId, float] = {}
        for row in rows:
            reply = row.reply
            if reply is None:
                self._before.pop(row.server, None)
                continue
            done = reply.counters.get("commands_executed", 0) + reply.counters.get(
                "queries_answered", 0
            )
            before = self._before.get(row.server)
            # After a restart the counters begin anew.
            if before is not None and reply.uptime > before[2] and now > before[0]:
                rates[row.server] = (done - before[1]) / (now - before[0])
            self._before[row.server] = (now, done, reply.uptime)
        return rates


def in_bytes(count: int) -> str:
    """A size for people: 312 B, 4.1 KiB, 27 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            digits = 0 if unit == "B" or size >= 100 else 1
            return f"{size:.{digits}f} {unit}"
        size /= 1024
    raise AssertionError("unreachable: GiB ends the loop")


def in_time(seconds: float) -> str:
    """A duration for people: 4 s, 3 min, 2 h, 5 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _name(row: ServerStatus) -> str:
    return str(row.server) if row.server > 0 else "?"


def _condition(row: ServerStatus) -> str:
    """Role of a server that answers, else what is known of its process."""
    if row.reply is not None and row.reply.waits_for:
        return "waits"
    if row.reply is not None:
        return "learns" if row.reply.part == "learner" else row.reply.role
    if row.state is None or row.state == "running":
        return "no answer"
    return row.state


_NARROW = ("role", "ballot", "chosen", "executed", "lag", "cmd/s", "disk", "state", "discarded")
_WIDE = (*_NARROW, "hash", "leader", "uptime", "clients", "accepted")
_LEAST_FIRST = (
    "accepted", "hash", "uptime", "discarded", "leader", "disk", "clients", "lag", "state",
    "ballot", "chosen", "cmd/s",
)  # fmt: skip
"""What is left out for the others to be readable, in this order."""


def status_table(
    rows: Sequence[ServerStatus],
    rates: dict[ServerId, float] | None = None,
    *,
    width: int,
    digest: bool = False,
) -> Table:
    """One line a server.

    Args:
        rows: what is known of each server.
        rates: commands a second, for a column of them.
        width: of the terminal; what matters less is left out until the rest fits. 0: little is
            shown, whatever its width.
        digest: whether to show the fingerprint of each server's state.
    """
    hidden = {"discarded" if digest else "state"} | ({"cmd/s"} if rates is None else set())
    columns = [name for name in (_WIDE if width else _NARROW) if name not in hidden]
    most_chosen = max((row.reply.chosen for row in rows if row.reply is not None), default=0)
    known = members(rows)
    lines: list[tuple[str, dict[str, str]]] = []
    for row in rows:
        cells = _cells(row, None if rates is None else rates.get(row.server))
        if row.reply is not None:
            cells["lag"] = f"{max(0, most_chosen - row.reply.executed):,}"
        elif row.state is None and row.server > 0 and known and row.server not in known:
            cells["role"] = "no member"  # it was removed, and a cluster file still has it
        lines.append((_name(row), cells))

    def columns_width() -> int:
        return (
            1
            + len("server")
            + sum(
                3 + max([len(name), *(len(cells[name]) for _, cells in lines)]) for name in columns
            )
        )

    for name in _LEAST_FIRST:
        if not width or columns_width() <= width:
            break
        if name in columns:
            columns.remove(name)
    return _table(lines, columns)


def _table(lines: Sequence[tuple[str, dict[str, str]]], columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("server", justify="right", no_wrap=True)
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in _LEFT else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for server, cells in lines:
        style = _ROLE_STYLES.get(cells["role"], "red")
        table.add_row(
            server, *(Text(cells[name], style=style if name == "role" else "") for name in columns)
        )
    return table


_DIGEST_LETTERS = 12
"""So much of a fingerprint tells stores apart well enough for people."""

_LEFT = ("role", "state", "clients", "hash")


def _cells(row: ServerStatus, rate: float | None) -> dict[str, str]:
    """The cells that a table may show of a server, by the name of the column."""
    cells: dict[str, str] = defaultdict(str)
    cells |= {"role": _condition(row), "clients": row.address}
    reply = row.reply
    if reply is not None:
        cells |= {
            "ballot": str(reply.ballot) if reply.ballot.round else "none",
            "leader": str(reply.leader) if reply.leader else "none",
            "hash": f"{reply.digest[:6]}@{reply.digest_slot}" if reply.digest else "",
            "chosen": f"{reply.chosen:,}",
            "executed": f"{reply.executed:,}",
            "discarded": f"{reply.discarded:,}",
            "cmd/s": "" if rate is None else f"{rate:,.0f}",
            "disk": in_bytes(reply.disk_bytes),
            "state": reply.state_digest[:_DIGEST_LETTERS],
            "uptime": in_time(reply.uptime),
        }
    return cells


def status_line(rows: Sequence[ServerStatus], rates: dict[ServerId, float] | None = None) -> str:
    """All servers on one line, for a log."""
    parts = []
    for row in rows:
        reply = row.reply
        part = f"{_name(row)} {_condition(row)}"
        if reply is not None:
            part += f" ballot {reply.ballot} executed {reply.executed}"
            rate = (rates or {}).get(row.server)
            if rate is not None:
                part += f" {rate:.0f} cmd/s"
            if reply.state_digest:
                part += f" state {reply.state_digest[:_DIGEST_LETTERS]}"
        parts.append(part)
    return " | ".join(parts)


def status_json(rows: Sequence[ServerStatus]) -> list[dict[str, object]]:
    """A flat object a server; what is not known is null."""
    listed: list[dict[str, object]] = []
    for row in rows:
        reply = row.reply
        fields: dict[str, object] = {
            "server": row.server if row.server > 0 else None,
            "address": row.address,
            "answers": reply is not None,
        }
        if row.state is not None:
            fields |= {"process": row.state, "pid": row.pid, "reason": row.reason}
        for name in StatusReply.__struct_fields__:
            if name in ("id", "server"):
                continue
            value = None if reply is None else getattr(reply, name)
            fields[name] = str(value) if name == "ballot" and value is not None else value
        listed.append(msgspec.to_builtins(fields))
    return listed


def counters_explained(rows: Sequence[ServerStatus]) -> str:
    """A line for each number that servers count, with what it is on each, and what it means."""
    told = {row.server: row.reply.counters for row in rows if row.reply is not None}
    names = list(dict.fromkeys(name for counters in told.values() for name in counters))
    lines = [["", *(f"server {server}" for server in told), ""]]
    for name in sorted(names):
        values = (counters.get(name) for counters in told.values())
        shown = ["-" if value is None else f"{value:,}" for value in values]
        lines.append([name, *shown, meaning_of(name)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        f"{line[0]:{widths[0]}}  "
        + "".join(f"{v:>{w}}  " for v, w in zip(line[1:-1], widths[1:-1], strict=True))
        + f"{line[-1]}\n"
        for line in lines
    )


_LOOK_SECONDS = 1.0


def watch_status(
    look: Callable[[], list[ServerStatus]],
    *,
    as_json: bool,
    digest: bool = False,
    times: int | None = None,
) -> None:
    """Until Ctrl-C, or `times` looks: a table on a terminal, else a line a look (or JSON)."""
    console = Console(highlight=False)
    rates = Rates()
    turns = itertools.count() if times is None else range(times)
    if console.is_terminal and not as_json:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            for _ in turns:
                rows = look()
                notes = [Text(problem, style="red") for problem in problems(rows)]
                table = status_table(rows, rates.update(rows), width=console.width, digest=digest)
                live.update(Group(table, *notes), refresh=True)
                time.sleep(_LOOK_SECONDS)
        return
    for turn in turns:
        if turn:
            time.sleep(_LOOK_SECONDS)
        rows = look()
        if as_json:
            line = json.dumps(status_json(rows), ensure_ascii=False)
        else:
            line = "; ".join([status_line(rows, rates.update(rows)), *problems(rows)])
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
