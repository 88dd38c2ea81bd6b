"""`paxon bench compare` and its flags (the rest: cli.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from paxon.actors.settings import PolicyName
from paxon.bench.cli.common import (
    Assignments,
    DurabilityOption,
    JsonFile,
    PageFile,
    PlotDirectory,
    Quick,
    Repeat,
    Seconds,
    Seed,
    Servers,
    SourceFile,
    TransportOption,
    ValueSize,
    Warmup,
    check_outputs,
    chosen_names,
    known_policies,
    known_proposers,
    progress_bar,
    server_options,
    wide_console,
)
from paxon.bench.contention.compare import SWEEPS, CompareSettings, SweepName
from paxon.bench.contention.compare_plots import compare_plots
from paxon.bench.contention.compare_run import CompareReport, run_compare, steps_of
from paxon.bench.contention.compare_table import compare_markdown, compare_tables
from paxon.bench.harness.pages import check_page, fill_page, save_plots
from paxon.bench.harness.report import read_json, write_json

__all__ = ["compare"]

_QUICK_SWEEPS: tuple[SweepName, ...] = ("proposers", "load")


def compare(
    *,
    sweep: Annotated[
        list[str],
        typer.Option(
            metavar=",".join(SWEEPS),
            help="What to sweep over; separated by commas or given several times. All by default, "
            "with --quick " + " and ".join(_QUICK_SWEEPS) + ".",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (typer's way to say "several, none by default")
    policies: Annotated[
        list[str],
        typer.Option(
            "--policy",
            metavar="|".join(get_args(PolicyName)),
            help="What a preempted server does; may be given several times.",
        ),
    ] = ["stable", "backoff", "random", "immediate"],  # noqa: B006 (see above)
    proposers: Annotated[
        int, typer.Option(min=1, help="How many servers try to lead, where it is not swept over.")
    ] = 3,
    outstanding: Annotated[
        int, typer.Option(min=1, max=1024, help="Operations under way for each proposer.")
    ] = 8,
    servers: Servers = 3,
    seconds: Seconds = 1.0,
    warmup: Warmup = 0.3,
    repeat: Repeat = 3,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    transport: TransportOption = "tcp",
    seed: Seed = 1,
    quick: Quick = False,
    options: Assignments = [],  # noqa: B006 (see above)
    source: SourceFile = None,
    json: JsonFile = None,
    plots: PlotDirectory = None,
    page: PageFile = None,
) -> None:
    """A stable leader against contention, in one run: what each policy gives, and what it costs."""
    settings = CompareSettings(
        sweeps=chosen_names(sweep, SWEEPS, "--sweep", default=_QUICK_SWEEPS if quick else SWEEPS),
        policies=known_policies(policies),
        servers=servers,
        proposers=known_proposers([min(proposers, servers) if quick else proposers], servers)[0],
        outstanding=outstanding,
        value_bytes=value_size,
        durability=durability,
        transport=transport,
        seconds=min(seconds, 0.5) if quick else seconds,
        warmup=min(warmup, 0.2) if quick else warmup,
        repeat=min(repeat, 2) if quick else repeat,
        seed=seed,
        quick=quick,
        options=server_options(options, "policy", "contend"),
    )
    check_outputs(json, plots / "compare.svg" if plots is not None else None, directory=plots)
    if page is not None:
        check_page(page, "compare")
    if source is not None:
        report = read_json(source, CompareReport)
    else:
        with progress_bar("compare", steps_of(settings)) as progress:
            report = run_compare(settings, progress)
    console = wide_console()
    for table in compare_tables(report):
        console.print(table)
    console.print(report.machine.sentence(), style="dim")
    _write(report, json, plots, page)


def _write(report: CompareReport, json: Path | None, plots: Path | None, page: Path | None) -> None:
    if json is not None:
        write_json(report, json, indent=None)
    if plots is not None:
        save_plots(compare_plots(report), plots)
    if page is not None:
        fill_page(page, "compare", compare_markdown(report))
