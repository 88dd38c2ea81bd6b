"""`paxon bench pair`: the same loads on two sides or more, in turns.

Sides are settings of the servers (`--a`, `--b`): clusters that are up together, with half a second
of load on the one, then on the other, again and again. Or they are Python interpreters (`--python`,
two or more), each with a Paxon of its own, so that they may be commits as well: a short `paxon
bench stable` under each takes turns with the others. Either way a machine that slows down hits both
sides of a pair, so that differences of a few percent show which no two runs one after the other
would show.
"""

from __future__ import annotations

import functools
import os
import string
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import typer

from paxon.bench.harness import measure
from paxon.bench.harness import report as col
from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.flags import BenchSettings, Options, Seconds, Warmup
from paxon.bench.harness.load import CLIENT
from paxon.bench.harness.measure import Figures, Measurement, Ratios
from paxon.bench.harness.report import Bench, Column, Progress, Report, Section, ratios
from paxon.bench.harness.workloads import stable_workloads
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.local_cluster import CLUSTER_FILE

__all__ = ["PAIR", "PairReport"]

_PROBE = "import platform, paxon.bench; print(platform.python_version())"
_GRACE_SECONDS = 120.0
"""For starting and stopping a cluster, beyond the time that is measured."""


class PairSettings(BenchSettings, frozen=True, kw_only=True):
    """The settings of a run. Times are seconds; `options` are of all sides."""

    QUICK: ClassVar[dict[str, float]] = {"warmup": 0.3, "turns": 10}

    first: Annotated[
        Options, typer.Option("--a", metavar="NAME=VALUE", help="An option of side A's servers.")
    ] = {}  # noqa: RUF012 (msgspec copies it)
    second: Annotated[
        Options, typer.Option("--b", metavar="NAME=VALUE", help="An option of side B's servers.")
    ] = {}  # noqa: RUF012 (the same)
    keys: Annotated[
        bool, typer.Option("--keys", help="Side B's connections are encrypted by CURVE keys.")
    ] = False
    python: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="An interpreter with Paxon installed; give two or more, instead of --a and --b.",
        ),
    ] = []  # noqa: RUF012 (the same)
    """In a report their versions: paths are nobody else's business."""
    seconds: Seconds = 0.5
    """Of a load on a side in each turn."""
    warmup: Warmup = 0.5
    turns: Annotated[int, typer.Option(min=1, help="How often each load takes turns.")] = 20

    def __post_init__(self) -> None:
        if len(self.python) == 1:
            raise ValueError("one --python has nothing to be compared with: give two or more")
        if self.python and (self.first or self.second or self.keys):
            raise ValueError("--python goes without --a, --b and --keys")


class PairRow(Figures, frozen=True, kw_only=True):
    """One load on one side."""

    load: str
    side: str
    """Its letter."""
    to_first: Ratios | None
    """To side A in the same turn; of A itself none."""


class PairReport(Report[PairSettings, PairRow], frozen=True, kw_only=True):
    """A whole run."""

    sides: dict[str, str]
    """What each letter stands for."""


Taken = dict[str, list[list[Measurement]]]
"""Of each load and each side: a measurement for each turn."""


def run_pair(settings: PairSettings, progress: Progress) -> PairReport:
    """Run it all. Raises `PaxonError` if a cluster cannot be started or loaded."""
    if settings.python:
        names = [interpreter_name(Path(python)) for python in settings.python]
        taken = _interpreters(settings, progress)
        settings = msgspec.structs.replace(settings, python=names)
    else:
        names = [_named(settings.first), _named(settings.second) + ", keys" * settings.keys]
        taken = _options(settings, progress)
    sides = dict(zip(string.ascii_uppercase, names, strict=False))
    rows = [
        PairRow(
            load=load, side=side, **measure.figures_of(measured[place]),
            to_first=measure.ratios_of(list(zip(measured[place], measured[0], strict=True)))
            if place else None,
        )
        for load, measured in taken.items()
        for place, side in enumerate(sides)
    ]  # fmt: skip
    return PairReport(bench="pair", settings=settings, rows=rows, sides=sides)


def _order(turn: int, sides: int) -> list[int]:
    """Each turn another side begins, so that none always follows the same neighbour's heat."""
    return [(turn + place) % sides for place in range(sides)]


def _options(settings: PairSettings, progress: Progress) -> Taken:
    """Two clusters that are up together, each with clients of its own."""
    taken: Taken = {}
    with ExitStack() as stack:
        sides = []
        for options in (settings.first, settings.second | {"keys": settings.keys}):
            cluster = stack.enter_context(settings.cluster(**options))
            cluster.leader()
            sides.append((cluster, stack.enter_context(Children(CLIENT))))
        for load in stable_workloads(value_bytes=settings.value_bytes, quick=settings.quick):
            for cluster, processes in sides:
                jobs = measure.jobs_for(
                    load, cluster.addresses, warmup=settings.warmup, seed=settings.seed
                )
                described = ClusterDescription.read(cluster.directory / CLUSTER_FILE)
                at = described.client_addresses
                keys = {at[server]: key for server, key in described.public_keys.items()}
                measure.prepare(
                    processes.take(load.clients), [job._replace(keys=keys) for job in jobs]
                )
            measured: list[list[Measurement]] = [[] for _ in sides]
            for turn in range(settings.turns):
                progress(load.name)
                for place in _order(turn, len(sides)):
                    cluster, processes = sides[place]
                    counts = functools.partial(measure.counts_of, cluster)
                    clients = processes.take(load.clients)
                    measured[place].append(measure.stretch(counts, clients, settings.seconds))
            taken[load.name] = measured
    return taken


def _named(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items()) or "defaults"


def interpreter_name(python: Path) -> str:
    """An interpreter's version. Raises `BenchError` if it cannot run Paxon."""
    try:
        probe = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{python} cannot be run: {error}") from None
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise BenchError(f"{python} cannot run Paxon: install paxon there first ({reason})")
    return f"Python {probe.stdout.strip()}"


def _interpreters(settings: PairSettings, progress: Progress) -> Taken:
    """A short run under each in turns. Raises `BenchError` if one fails."""
    pythons = settings.python
    runs: list[list[dict[str, Measurement]]] = [[] for _ in pythons]
    with tempfile.TemporaryDirectory(prefix="paxon-") as directory:
        for turn in range(settings.turns):
            for place in _order(turn, len(pythons)):
                progress(f"side {string.ascii_uppercase[place]}")
                file = Path(directory) / f"{turn}-{place}.json"
                runs[place].append(_run_stable(pythons[place], settings, turn, file))
    common = [load for load in runs[0][0] if all(load in run[0] for run in runs)]
    return {load: [[turn[load] for turn in run] for run in runs] for load in common}


def _run_stable(
    python: str, settings: PairSettings, turn: int, file: Path
) -> dict[str, Measurement]:
    arguments = [
        "bench", "stable", "--no-floor", "--seconds", settings.seconds, "--warmup",
        settings.warmup, "--repeat", 1, "--servers", settings.servers, "--durability",
        settings.durability, "--transport", settings.transport,
        "--value-size", settings.value_bytes, "--seed", settings.seed + turn,
        "--json", file, *(["--quick"] if settings.quick else []),
        *(f"--set={name}={value}" for name, value in settings.options.items()),
    ]  # fmt: skip
    done = subprocess.run(
        [python, "-m", "paxon.kvstore.cli", *map(str, arguments)], capture_output=True, text=True,
        timeout=_GRACE_SECONDS + 20 * (settings.seconds + settings.warmup), check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchError(f"the run under {python} failed: {done.stderr.strip()}")
    try:
        rows = msgspec.json.decode(file.read_bytes())["rows"]
        first = {row["workload"]["name"]: row["repeats"][0] for row in rows}
        return msgspec.convert(first, dict[str, Measurement])
    except (KeyError, msgspec.MsgspecError) as error:
        raise BenchError(f"{python} has a Paxon that is too old to be compared: {error}") from None


def pair_sections(report: PairReport) -> list[Section]:
    """The rows for people."""
    settings = report.settings
    sides = "\n".join(f"{letter}: {name}" for letter, name in report.sides.items())
    title = (
        f"{sides}\n{settings.conditions()}; medians of {settings.turns} turns of "
        f"{settings.seconds:g} s; ratios to A in the same turn, least … most"
    )
    columns = [
        Column("load, side", lambda row: f"{row.load}, {row.side}"),
        col.RATE, col.P50, col.P99, col.SERVER_CPU, col.CLIENT_CPU,
        *(_ratio(*of) for of in (("op/s", "rate"), ("p50", "p50"), ("p99", "p99"), ("CPU", "cpu"))),
    ]  # fmt: skip
    blocks = range(len(report.sides), len(report.rows), len(report.sides))
    return [col.table_of(title, columns, report.rows, blocks=blocks)]


def _ratio(head: str, figure: str) -> Column:
    return Column(f"{head}\nratio", lambda row: ratios(getattr(row.to_first, figure, None)))


PAIR = Bench(
    "pair",
    "Two settings of the servers, with keys and without, or several Pythons, in turns.\n\n"
    "For example `paxon bench pair --a thrifty_delay=0.01 --b thrifty_delay=0`, or "
    "`paxon bench pair --python old/bin/python --python new/bin/python --turns 5 --seconds 1`.",
    PairSettings, PairReport, run_pair, pair_sections,
)  # fmt: skip
