"""`paxon status --watch`: the table again and again, for servers wherever they are."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from paxon.kvstore.cli.live_view import Rates, status_json, status_line, status_table
from paxon.kvstore.cluster.health import problems
from paxon.kvstore.cluster.status import ServerStatus

__all__ = ["watch_status"]

_SECONDS = 1.0


def watch_status(
    look: Callable[[], list[ServerStatus]], *, as_json: bool, times: int | None = None
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
                table = status_table(rows, rates.update(rows), width=console.width)
                live.update(Group(table, *notes), refresh=True)
                time.sleep(_SECONDS)
        return
    for turn in turns:
        if turn:
            time.sleep(_SECONDS)
        rows = look()
        if as_json:
            line = json.dumps(status_json(rows), ensure_ascii=False)
        else:
            line = "; ".join([status_line(rows, rates.update(rows)), *problems(rows)])
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
