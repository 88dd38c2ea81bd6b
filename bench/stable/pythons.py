"""`paxon bench pythons`: the same loads under several interpreters, in turns.

Servers and clients of a run are processes of one interpreter, each of which has Paxon installed (in
a virtual environment of its own, say). A short `paxon bench stable` under each takes turns with the
others, and ratios are those of runs next to each other: see pair.py for why.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
from rich.table import Table

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.report import (
    Report,
    count,
    microseconds,
    milliseconds,
    new_report,
    plain_table,
    ratios,
    read_json,
    spread_or_none,
)
from paxon.bench.harness.summary import Spread, quotient
from paxon.bench.stable.stable import StableReport, StableRow

__all__ = ["PythonsSettings", "PythonRow", "PythonsReport", "run_pythons", "pythons_table"]

_PROBE = """
import sys, sysconfig, paxon.bench
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
build = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(sys.version.split()[0], build, "" if gil or not build else "without the GIL")
"""
_GRACE_SECONDS = 120.0
"""For starting and stopping a cluster, beyond the time that is measured."""


class PythonsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times are seconds."""

    names: list[str]
    """The interpreters' versions. The first is what the others are compared with."""
    servers: int = 3
    seconds: float = 1.0
    """Of each load in each turn."""
    warmup: float = 0.5
    """Before it."""
    turns: int = 5
    seed: int = 1


class PythonRow(msgspec.Struct, frozen=True, kw_only=True):
    """One load under one interpreter."""

    load: str
    python: str
    rate: Spread | None
    """Operations a second."""
    p50: Spread | None
    """Seconds."""
    server_cpu: Spread | None
    """Seconds of all servers together for each operation."""
    client_cpu: Spread | None
    rate_ratio: Spread | None
    """By the first interpreter's rate in the same turn: above 1 this one does more."""
    cpu_ratio: Spread | None
    """Of the CPU of servers and clients for each operation: below 1 this one needs less."""


PythonsReport: TypeAlias = Report[PythonsSettings, PythonRow]

Progress: TypeAlias = Callable[[str], None]


def interpreter_name(python: Path) -> str:
    """Version and kind of an interpreter. Raises `BenchError` if it cannot run Paxon."""
    try:
        probe = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{python} cannot be run: {error}") from None
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise BenchError(f"{python} cannot run Paxon: install paxon there first ({reason})")
    return " ".join(probe.stdout.split())


def run_pythons(
    pythons: Sequence[Path], settings: PythonsSettings, progress: Progress
) -> PythonsReport:
    """Run it all. Raises `BenchError` if a run fails."""
    started = datetime.datetime.now(datetime.UTC)
    taken: list[list[dict[str, StableRow]]] = [[] for _ in pythons]
    with tempfile.TemporaryDirectory(prefix="paxon-") as directory:
        for turn in range(settings.turns):
            # Each turn another one begins, so that none always follows the same neighbour's heat.
            order = [(turn + place) % len(pythons) for place in range(len(pythons))]
            for number in order:
                progress(settings.names[number])
                file = Path(directory) / f"{turn}-{number}.json"
                report = _run_stable(pythons[number], settings, turn, file)
                taken[number].append({row.workload.name: row for row in report.rows})
    rows = [
        _row(load, name, taken[number], taken[0])
        for load in taken[0][0]
        for number, name in enumerate(settings.names)
    ]
    return new_report("pythons", settings, rows, started)


def _run_stable(python: Path, settings: PythonsSettings, turn: int, file: Path) -> StableReport:
    arguments = [
        "bench", "stable", "--quick", "--no-floor", "--seconds", settings.seconds,
        "--warmup", settings.warmup, "--repeat", 1, "--servers", settings.servers,
        "--seed", settings.seed + turn, "--json", file,
    ]  # fmt: skip
    done = subprocess.run(
        [python, "-m", "paxon.kvstore.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=_GRACE_SECONDS + 20 * settings.seconds,
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    if done.returncode != 0:
        raise BenchError(f"the run under {python} failed: {done.stderr.strip()}")
    return read_json(file, StableReport)


def _row(
    load: str, name: str, ours: list[dict[str, StableRow]], first: list[dict[str, StableRow]]
) -> PythonRow:
    rows = [turn[load] for turn in ours]
    pairs = [(turn[load], other[load]) for turn, other in zip(ours, first, strict=True)]

    def each(figure: Callable[[StableRow], float | None]) -> Spread | None:
        return spread_or_none([figure(row) for row in rows])

    def of_pairs(figure: Callable[[StableRow], float | None]) -> Spread | None:
        return spread_or_none([quotient(figure(row), figure(other)) for row, other in pairs])

    return PythonRow(
        load=load,
        python=name,
        rate=each(lambda row: row.rate.median),
        p50=each(lambda row: row.p50.median if row.p50 else None),
        server_cpu=each(lambda row: row.server_cpu.median if row.server_cpu else None),
        client_cpu=each(lambda row: row.client_cpu.median if row.client_cpu else None),
        rate_ratio=of_pairs(lambda row: row.rate.median),
        cpu_ratio=of_pairs(_cpu),
    )


def _cpu(row: StableRow) -> float | None:
    """Of servers and clients together."""
    if row.server_cpu is None or row.client_cpu is None:
        return None
    return row.server_cpu.median + row.client_cpu.median


def pythons_table(report: PythonsReport) -> Table:
    """The rows for people."""
    settings = report.settings
    table = plain_table(
        f"{settings.servers} servers, durability disk; medians of {settings.turns} turns of "
        f"{settings.seconds:g} s; ratios to {settings.names[0]}, least … most",
        ["load, Python", "op/s", "p50\nms", "servers\nµs/op", "clients\nµs/op", "op/s\nratio",
         "CPU\nratio"],
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            f"{row.load}, {row.python}", count(row.rate), milliseconds(row.p50),
            microseconds(row.server_cpu), microseconds(row.client_cpu), ratios(row.rate_ratio),
            ratios(row.cpu_ratio),
        )  # fmt: skip
    return table
