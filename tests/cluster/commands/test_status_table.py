"""The table of servers is readable at any width: what does not fit is left out, not cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from paxon.actors import Ballot
from paxon.actors.messages import StatusReply
from paxon.kvstore.cli.cluster import _print_table
from paxon.kvstore.cli.live_view import status_table
from paxon.kvstore.cluster.status import ServerStatus


def row(server: int, members: tuple[int, ...] = ()) -> ServerStatus:
    """A server that has been busy for a month."""
    many = 123_456_789
    reply = StatusReply(
        id=1, server=server, cluster="c", role="leader" if server == 1 else "follower",
        ballot=Ballot(12_345, 1), leader=1, accepted=many, chosen=many, executed=many,
        discarded=many, snapshot=many, uptime=30 * 86_400.0, disk_bytes=123 << 20,
        state_digest="0123456789abcdef", counters={}, digest="0123456789abcdef", digest_slot=many,
        members=members,
    )  # fmt: skip
    return ServerStatus(server=server, address=f"tcp://127.0.0.1:71{server}1", reply=reply)


@pytest.mark.parametrize("width", [60, 80, 100, 118, 120, 140, 160, 200])
def test_nothing_is_cut(width: int) -> None:
    out = io.StringIO()
    rates = {1: 123_456.0, 2: 1.0, 3: 2.0}
    table = status_table([row(1), row(2), row(3)], rates, width=width)
    Console(file=out, width=width, highlight=False).print(table)
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for name in ("role", "executed", *(("clients", "lag") if width >= 118 else ())):
        assert name in text


@pytest.mark.parametrize("columns", [None, 80, 160])
def test_what_is_piped_is_as_wide_as_is_said_or_120(
    columns: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    rows = [
        row(1),
        row(2),
        ServerStatus(server=3, address="tcp://paxon-three.example.org:7131", reply=None),
    ]
    _print_table(rows, state=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= (columns or 120)
    assert len(lines) == 7  # no line is folded
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(("members", "said"), [((1, 2, 3), "no answer"), ((1, 2), "no member")])
def test_a_server_that_is_no_member_is_not_missed(
    members: tuple[int, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a cluster file still has it."""
    rows = [row(1, members), row(2, members), ServerStatus(server=3, address="tcp://3", reply=None)]
    _print_table(rows, state=False)
    assert said in capsys.readouterr().out
