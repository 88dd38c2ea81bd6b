"""`paxon bench …`: the benchmarks' command line. Tables go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from paxon.actors.settings import PolicyName
from paxon.bench import contention as contention_bench
from paxon.bench import failover as failover_bench
from paxon.bench import plots
from paxon.bench import stable as stable_bench
from paxon.bench.peers import plan as peers_plan
from paxon.bench.peers import run as peers_bench
from paxon.bench.peers import table as peers_tables
from paxon.bench.peers.figures import PeersSettings
from paxon.bench.peers.plot import plot_peers
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.report import Report, check_writable, write_json
from paxon.kvstore.local_cluster import Transport
from paxon.kvstore.options import Durability, parse_assignments

__all__ = ["app"]

app = typer.Typer(
    help="Measure Paxon on this machine: servers, clients and the floor share its cores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MAX_SERVERS = 9

_Servers = Annotated[
    int, typer.Option("--servers", "-s", min=1, max=_MAX_SERVERS, help="How many servers.")
]
_Seconds = Annotated[
    float, typer.Option(min=0.1, help="Seconds of each measurement, after the warm-up.")
]
_Warmup = Annotated[float, typer.Option(min=0.0, help="Seconds of load before each measurement.")]
_Repeat = Annotated[int, typer.Option(min=1, help="How often everything is measured.")]
_ValueSize = Annotated[
    int, typer.Option("--value-size", min=0, max=8 << 20, help="Bytes of each value.")
]
_Durability = Annotated[
    Durability, typer.Option(help="disk syncs before answering; memory forgets all.")
]
_Transport = Annotated[Transport, typer.Option(help="What servers talk to each other over.")]
_Seed = Annotated[int, typer.Option(help="Decides the order of keys and of variants.")]
_Quick = Annotated[bool, typer.Option("--quick", help="A rough impression in under a minute.")]
_Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set an option of the servers, such as window=32; may be given several times.",
        show_default=False,
    ),
]
_Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write all figures to this file.", show_default=False
    ),
]
_Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the figures (.png, .svg or .pdf; needs matplotlib).",
        show_default=False,
    ),
]


@app.command()
def stable(
    *,
    servers: _Servers = 3,
    seconds: _Seconds = 5.0,
    warmup: _Warmup = 1.0,
    repeat: _Repeat = 3,
    value_size: _ValueSize = 64,
    durability: _Durability = "disk",
    transport: _Transport = "tcp",
    seed: _Seed = 1,
    quick: _Quick = False,
    options: _Settings = [],  # noqa: B006 (typer's way to say "several, none by default")
    json: _Json = None,
    plot: _Plot = None,
) -> None:
    """One leader: throughput, latency and cost of an operation, beside the floor."""
    settings = stable_bench.StableSettings(
        servers=servers,
        durability=durability,
        transport=transport,
        value_bytes=value_size,
        seconds=min(seconds, 1.0) if quick else seconds,
        warmup=min(warmup, 0.5) if quick else warmup,
        repeat=min(repeat, 2) if quick else repeat,
        seed=seed,
        quick=quick,
        options=_options(options),
    )
    _check_outputs(json, plot)
    with _progress("stable", stable_bench.steps_of(settings)) as progress:
        report = stable_bench.run_stable(settings, progress)
    _finish(report, stable_bench.stable_table(report), json)
    if plot is not None:
        plots.save_plot(plots.plot_stable(report), plot)


@app.command()
def contention(
    *,
    policies: Annotated[
        list[str],
        typer.Option(
            "--policy",
            metavar="|".join(get_args(PolicyName)),
            help="What a preempted server does; may be given several times. The stable leader is "
            "always measured beside.",
        ),
    ] = ["immediate", "random", "backoff"],  # noqa: B006 (see above)
    proposers: Annotated[
        list[int],
        typer.Option(min=1, help="How many servers try to lead; may be given several times."),
    ] = [2, 3],  # noqa: B006 (see above)
    outstanding: Annotated[
        int, typer.Option(min=1, max=1024, help="Operations under way for each proposer.")
    ] = 8,
    servers: _Servers = 3,
    seconds: _Seconds = 3.0,
    warmup: _Warmup = 0.5,
    repeat: _Repeat = 3,
    value_size: _ValueSize = 64,
    durability: _Durability = "disk",
    transport: _Transport = "tcp",
    seed: _Seed = 1,
    quick: _Quick = False,
    options: _Settings = [],  # noqa: B006 (see above)
    json: _Json = None,
    plot: _Plot = None,
) -> None:
    """Several servers try to lead: what each election policy makes of it."""
    settings = contention_bench.ContentionSettings(
        policies=_policies(policies),
        proposers=_proposers(proposers[-1:] if quick else proposers, servers),
        servers=servers,
        outstanding=outstanding,
        durability=durability,
        transport=transport,
        value_bytes=value_size,
        seconds=min(seconds, 1.0) if quick else seconds,
        warmup=min(warmup, 0.3) if quick else warmup,
        repeat=min(repeat, 2) if quick else repeat,
        seed=seed,
        timeline=plot is not None and not quick,
        options=_options(options, "policy", "contend"),
    )
    _check_outputs(json, plot)
    with _progress("contention", contention_bench.steps_of(settings)) as progress:
        report = contention_bench.run_contention(settings, progress)
    _finish(report, contention_bench.contention_table(report), json)
    if plot is not None:
        plots.save_plot(plots.plot_contention(report), plot)


@app.command()
def failover(
    *,
    runs: Annotated[int, typer.Option(min=1, help="How often the leader is killed.")] = 10,
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=3, max=_MAX_SERVERS, help="How many servers.")
    ] = 3,
    value_size: _ValueSize = 64,
    durability: Annotated[
        Durability, typer.Option(help="With memory a restarted server rejoins empty.")
    ] = "disk",
    transport: _Transport = "tcp",
    seed: _Seed = 1,
    quick: Annotated[bool, typer.Option("--quick", help="At most three kills.")] = False,
    options: _Settings = [],  # noqa: B006 (see above)
    json: _Json = None,
    plot: _Plot = None,
) -> None:
    """From kill -9 of the leader to the next acknowledged write."""
    settings = failover_bench.FailoverSettings(
        servers=servers,
        runs=min(runs, 3) if quick else runs,
        durability=durability,
        transport=transport,
        value_bytes=value_size,
        seed=seed,
        options=_options(options),
    )
    _check_outputs(json, plot)
    with _progress("failover", settings.runs) as progress:
        report = failover_bench.run_failover(settings, progress)
    _finish(report, failover_bench.failover_table(report), json)
    if plot is not None:
        plots.save_plot(plots.plot_failover(report), plot)


@app.command()
def peers(
    *,
    only: Annotated[
        str, typer.Option(metavar="NAME,…", help="Leave out all peers but these.")
    ] = "etcd,redis,pysyncobj",
    install: Annotated[
        bool, typer.Option("--install", help="Fetch the peers from Debian and PyPI, then end.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where they are put and looked for, before PATH; by default $PAXON_PEERS or a "
            "folder in ~/.cache.",
            show_default=False,
        ),
    ] = None,
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=3, max=_MAX_SERVERS, help="How many servers.")
    ] = 3,
    seconds: _Seconds = 3.0,
    warmup: _Warmup = 1.0,
    repeat: _Repeat = 5,
    kills: Annotated[
        int, typer.Option(min=0, help="How often leaders are killed in each repeat.")
    ] = 4,
    value_size: _ValueSize = 64,
    seed: _Seed = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and shorter loads: about two minutes.")
    ] = False,
    options: _Settings = [],  # noqa: B006 (see above)
    json: _Json = None,
    plot: _Plot = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the tables for a document.", show_default=False),
    ] = None,
) -> None:
    """Paxon beside etcd, Redis and PySyncObj in one run, taking turns: ratios."""
    programs = Programs((directory or default_directory()).absolute())
    if install:
        programs.install()
        return
    try:
        names = peers_plan.parse_peers(only)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    settings = PeersSettings(
        only=names,
        servers=servers,
        value_bytes=value_size,
        seconds=min(seconds, 1.0) if quick else seconds,
        warmup=min(warmup, 0.3) if quick else warmup,
        repeat=min(repeat, 2) if quick else repeat,
        kills=min(kills, 1) if quick else kills,
        seed=seed,
        quick=quick,
        options=_options(options),
    )
    _check_outputs(json, plot)
    if markdown is not None:
        check_writable(markdown)
    with _progress("peers", peers_bench.steps_of(settings, programs)) as progress:
        report = peers_bench.run_peers(settings, programs, progress)
    _finish(report, peers_tables.peers_table(report), json)
    peers_tables.print_rest(report, _console())
    if markdown is not None:
        peers_tables.write_markdown(report, markdown)
    if plot is not None:
        plots.save_plot(plot_peers(report), plot)


def _options(assignments: list[str], *decided: str) -> dict[str, Any]:
    """What `--set` says. Raises typer.BadParameter for what has a flag or is up to the bench."""
    options = parse_assignments(assignments)
    for name in ("durability", *decided):
        if name in options:
            raise typer.BadParameter(f"{name} is not set like this here", param_hint="--set")
    return options


def _policies(names: Sequence[str]) -> tuple[PolicyName, ...]:
    """The policies without repetition. Raises typer.BadParameter for an unknown one."""
    known: tuple[PolicyName, ...] = get_args(PolicyName)
    found: list[PolicyName] = []
    for name in dict.fromkeys(names):
        match = next((policy for policy in known if policy == name), None)
        if match is None:
            raise typer.BadParameter(
                f"{name!r} is none of {', '.join(known)}", param_hint="--policy"
            )
        found.append(match)
    return tuple(found)


def _proposers(numbers: Sequence[int], servers: int) -> tuple[int, ...]:
    """In order, without repetition. Raises typer.BadParameter for more than there are servers."""
    if max(numbers) > servers:
        raise typer.BadParameter(
            f"{max(numbers)} of {servers} servers cannot try to lead", param_hint="--proposers"
        )
    return tuple(sorted(set(numbers)))


def _check_outputs(json: Path | None, plot: Path | None) -> None:
    """Raise `BenchError` before anything is measured for nothing."""
    if json is not None:
        check_writable(json)
    if plot is not None:
        plots.check_plot(plot)
        check_writable(plot)


@contextmanager
def _progress(title: str, steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, if that is a terminal; hands out what is to be called before each step."""
    console = Console(stderr=True)
    with Progress(
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("starting", total=steps)
        begun = 0

        def step(what: str) -> None:
            nonlocal begun
            bar.update(task, description=what, completed=begun)
            begun += 1

        yield step


def _finish(report: Report[Any, Any], table: Table, json: Path | None) -> None:
    """Print the table; write the file."""
    if json is not None:
        write_json(report, json)
    console = _console()
    console.print(table)
    console.print(report.machine.sentence(), style="dim")


def _console() -> Console:
    """For tables: a file or a pipe has no edge, so that nothing is cut off."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
