"""`paxon bench …`: the benchmarks' command line. Tables go to stdout, progress to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from paxon.actors.settings import PolicyName
from paxon.bench.cli import compare as cli_compare
from paxon.bench.cli import plots
from paxon.bench.cli import scale as cli_scale
from paxon.bench.cli.common import (
    MAX_SERVERS,
    Assignments,
    DurabilityOption,
    JsonFile,
    PlotFile,
    Quick,
    Repeat,
    Seconds,
    Seed,
    Servers,
    TransportOption,
    ValueSize,
    Warmup,
    check_outputs,
    finish,
    known_policies,
    known_proposers,
    progress_bar,
    server_options,
    wide_console,
)
from paxon.bench.contention import contention as contention_bench
from paxon.bench.harness.report import check_writable
from paxon.bench.peers import plan as peers_plan
from paxon.bench.peers import run as peers_bench
from paxon.bench.peers import table as peers_tables
from paxon.bench.peers.figures import PeersSettings
from paxon.bench.peers.plot import plot_peers
from paxon.bench.peers.programs import Programs, default_directory
from paxon.bench.stable import failover as failover_bench
from paxon.bench.stable import pair as pair_bench
from paxon.bench.stable import pause as pause_bench
from paxon.bench.stable import pythons as pythons_bench
from paxon.bench.stable import stable as stable_bench
from paxon.bench.stable import steady as steady_bench
from paxon.kvstore.options import Durability

__all__ = ["app"]

app = typer.Typer(
    help="Measure Paxon on this machine: servers, clients and the floor share its cores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(cli_compare.compare)
app.command()(cli_scale.scale)


@app.command()
def stable(
    *,
    servers: Servers = 3,
    seconds: Seconds = 5.0,
    warmup: Warmup = 1.0,
    repeat: Repeat = 3,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    transport: TransportOption = "tcp",
    seed: Seed = 1,
    floor: Annotated[
        bool, typer.Option("--floor/--no-floor", help="Measure the floor beside each load.")
    ] = True,
    quick: Quick = False,
    options: Assignments = [],  # noqa: B006 (typer's way to say "several, none by default")
    json: JsonFile = None,
    plot: PlotFile = None,
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
        floor=floor,
        options=server_options(options),
    )
    check_outputs(json, plot)
    with progress_bar("stable", stable_bench.steps_of(settings)) as progress:
        report = stable_bench.run_stable(settings, progress)
    finish(report, stable_bench.stable_table(report), json)
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
    servers: Servers = 3,
    seconds: Seconds = 3.0,
    warmup: Warmup = 0.5,
    repeat: Repeat = 3,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    transport: TransportOption = "tcp",
    seed: Seed = 1,
    quick: Quick = False,
    options: Assignments = [],  # noqa: B006 (see above)
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Several servers try to lead: what each election policy makes of it."""
    settings = contention_bench.ContentionSettings(
        policies=known_policies(policies),
        proposers=known_proposers(proposers[-1:] if quick else proposers, servers),
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
        options=server_options(options, "policy", "contend"),
    )
    check_outputs(json, plot)
    with progress_bar("contention", contention_bench.steps_of(settings)) as progress:
        report = contention_bench.run_contention(settings, progress)
    finish(report, contention_bench.contention_table(report), json)
    if plot is not None:
        plots.save_plot(plots.plot_contention(report), plot)


@app.command()
def failover(
    *,
    runs: Annotated[int, typer.Option(min=1, help="How often the leader is killed.")] = 10,
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=3, max=MAX_SERVERS, help="How many servers.")
    ] = 3,
    value_size: ValueSize = 64,
    durability: Annotated[
        Durability, typer.Option(help="With memory a restarted server rejoins empty.")
    ] = "disk",
    transport: TransportOption = "tcp",
    seed: Seed = 1,
    quick: Annotated[bool, typer.Option("--quick", help="At most three kills.")] = False,
    options: Assignments = [],  # noqa: B006 (see above)
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """From kill -9 of the leader to the next acknowledged write."""
    settings = failover_bench.FailoverSettings(
        servers=servers,
        runs=min(runs, 3) if quick else runs,
        durability=durability,
        transport=transport,
        value_bytes=value_size,
        seed=seed,
        options=server_options(options),
    )
    check_outputs(json, plot)
    with progress_bar("failover", settings.runs) as progress:
        report = failover_bench.run_failover(settings, progress)
    finish(report, failover_bench.failover_table(report), json)
    if plot is not None:
        plots.save_plot(plots.plot_failover(report), plot)


@app.command()
def pause(
    *,
    servers: Servers = 1,
    size: Annotated[int, typer.Option(min=1, help="MiB of values in the store.")] = 1024,
    value_size: ValueSize = 4096,
    seconds: Annotated[
        float, typer.Option(min=0.5, max=8.0, help="How long to watch before the snapshot.")
    ] = 5.0,
    seed: Seed = 1,
    quick: Annotated[bool, typer.Option("--quick", help="At most 32 MiB.")] = False,
    options: Assignments = [],  # noqa: B006 (see above)
    json: JsonFile = None,
) -> None:
    """How long a server stands still while it takes a snapshot of a big store."""
    settings = pause_bench.PauseSettings(
        servers=servers,
        store_bytes=(min(size, 32) if quick else size) << 20,
        value_bytes=value_size,
        seconds=min(seconds, 1.0) if quick else seconds,
        seed=seed,
        options=server_options(options),
    )
    check_outputs(json, None)
    with progress_bar("pause", 1 + len(pause_bench.PHASES)) as progress:
        report = pause_bench.run_pause(settings, progress)
    finish(report, pause_bench.pause_table(report), json)


@app.command()
def pair(
    *,
    first: Annotated[
        list[str],
        typer.Option(
            "--a",
            metavar="NAME=VALUE",
            help="An option of the first cluster's servers.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (see above)
    second: Annotated[
        list[str],
        typer.Option(
            "--b",
            metavar="NAME=VALUE",
            help="An option of the second cluster's servers.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (see above)
    servers: Servers = 3,
    seconds: Seconds = 0.5,
    warmup: Warmup = 0.5,
    turns: Annotated[int, typer.Option(min=1, help="How often each load takes turns.")] = 20,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    seed: Seed = 1,
    quick: Quick = False,
    json: JsonFile = None,
) -> None:
    """Two settings of the servers under the same loads in turns: which is better, and by how much?

    For example `paxon bench pair --a thrifty_delay=0.01 --b thrifty_delay=0`.
    """
    settings = pair_bench.PairSettings(
        first=server_options(first),
        second=server_options(second),
        servers=servers,
        durability=durability,
        value_bytes=value_size,
        seconds=seconds,
        warmup=min(warmup, 0.3) if quick else warmup,
        turns=min(turns, 10) if quick else turns,
        seed=seed,
        quick=quick,
    )
    check_outputs(json, None)
    with progress_bar("pair", pair_bench.steps_of(settings)) as progress:
        report = pair_bench.run_pair(settings, progress)
    finish(report, pair_bench.pair_table(report), json)


@app.command()
def pythons(
    interpreters: Annotated[
        list[Path],
        typer.Argument(
            metavar="PYTHON…",
            help="Interpreters with Paxon installed; the first is what others are compared with.",
        ),
    ],
    *,
    servers: Servers = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="Seconds of each measurement.")
    ] = 1.0,
    warmup: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Seconds of load before each measurement.")
    ] = 0.5,
    turns: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 5,
    seed: Seed = 1,
    json: JsonFile = None,
) -> None:
    """The same loads under several Python interpreters, in turns."""
    settings = pythons_bench.PythonsSettings(
        names=[pythons_bench.interpreter_name(python) for python in interpreters],
        servers=servers,
        seconds=seconds,
        warmup=warmup,
        turns=turns,
        seed=seed,
    )
    check_outputs(json, None)
    with progress_bar("pythons", turns * len(interpreters)) as progress:
        report = pythons_bench.run_pythons(interpreters, settings, progress)
    finish(report, pythons_bench.pythons_table(report), json)


@app.command()
def steady(
    *,
    servers: Servers = 3,
    minutes: Annotated[float, typer.Option(min=0.02, help="How long.")] = 10.0,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    seed: Seed = 1,
    quick: Annotated[bool, typer.Option("--quick", help="At most ten seconds.")] = False,
    options: Assignments = [],  # noqa: B006 (see above)
    json: JsonFile = None,
) -> None:
    """Whether the leader keeps leading while all cores are busy for long."""
    stretches = 2 if quick else 10
    total = minutes * 60
    settings = steady_bench.SteadySettings(
        servers=servers,
        durability=durability,
        value_bytes=value_size,
        stretches=stretches,
        seconds=(min(total, 10.0) if quick else total) / stretches,
        seed=seed,
        options=server_options(options),
    )
    check_outputs(json, None)
    with progress_bar("steady", stretches) as progress:
        report = steady_bench.run_steady(settings, progress)
    finish(report, steady_bench.steady_table(report), json)


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
        int, typer.Option("--servers", "-s", min=3, max=MAX_SERVERS, help="How many servers.")
    ] = 3,
    seconds: Seconds = 3.0,
    warmup: Warmup = 1.0,
    repeat: Repeat = 5,
    kills: Annotated[
        int, typer.Option(min=0, help="How often leaders are killed in each repeat.")
    ] = 4,
    value_size: ValueSize = 64,
    seed: Seed = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and shorter loads: about two minutes.")
    ] = False,
    options: Assignments = [],  # noqa: B006 (see above)
    json: JsonFile = None,
    plot: PlotFile = None,
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
        options=server_options(options),
    )
    check_outputs(json, plot)
    if markdown is not None:
        check_writable(markdown)
    with progress_bar("peers", peers_bench.steps_of(settings, programs)) as progress:
        report = peers_bench.run_peers(settings, programs, progress)
    finish(report, peers_tables.peers_table(report), json)
    peers_tables.print_rest(report, wide_console())
    if markdown is not None:
        peers_tables.write_markdown(report, markdown)
    if plot is not None:
        plots.save_plot(plot_peers(report), plot)
