"""`paxon bench scale` and its flags (the rest: cli.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    SourceFile,
    TransportOption,
    ValueSize,
    Warmup,
    check_outputs,
    chosen_names,
    progress_bar,
    server_options,
    wide_console,
)
from paxon.bench.harness.pages import check_page, fill_page, save_plots
from paxon.bench.harness.report import read_json, write_json
from paxon.bench.scale.plots import plot_scale
from paxon.bench.scale.run import run_scale, steps_of
from paxon.bench.scale.scale import PARTS, ScaleReport, ScaleSettings
from paxon.bench.scale.table import scale_markdown, scale_tables

__all__ = ["scale"]


def scale(
    *,
    part: Annotated[
        list[str],
        typer.Option(
            metavar=",".join(PARTS),
            help="What to let grow; separated by commas or given several times. All by default.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (typer's way to say "several, none by default")
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=3, max=9, help="How many servers.")
    ] = 3,
    outstanding: Annotated[
        int, typer.Option(min=1, max=1024, help="Operations under way for each client.")
    ] = 64,
    seconds: Seconds = 1.0,
    warmup: Warmup = 0.3,
    repeat: Repeat = 2,
    value_size: ValueSize = 64,
    durability: DurabilityOption = "disk",
    transport: TransportOption = "tcp",
    seed: Seed = 1,
    quick: Quick = False,
    full: Annotated[
        bool, typer.Option("--full", help="10,000,000 keys and a directory of 1 GiB too.")
    ] = False,
    options: Assignments = [],  # noqa: B006 (see above)
    source: SourceFile = None,
    json: JsonFile = None,
    plots: PlotDirectory = None,
    page: PageFile = None,
) -> None:
    """What an operation costs as sessions, keys, log and values grow; memory, and start-up."""
    if quick and full:
        raise typer.BadParameter("a run is either quick or full", param_hint="--full")
    parts = chosen_names(part, PARTS, "--part")
    if durability == "memory":
        parts = tuple(name for name in parts if name != "replay")  # there is nothing to start from
    settings = ScaleSettings(
        parts=parts,
        servers=servers,
        outstanding=outstanding,
        value_bytes=value_size,
        durability=durability,
        transport=transport,
        seconds=min(seconds, 0.5) if quick else seconds,
        warmup=min(warmup, 0.2) if quick else warmup,
        repeat=1 if quick else repeat,
        seed=seed,
        quick=quick,
        full=full,
        options=server_options(options),
    )
    check_outputs(json, plots / "scale.svg" if plots is not None else None, directory=plots)
    if page is not None:
        check_page(page, "scale")
    if source is not None:
        report = read_json(source, ScaleReport)
    else:
        with progress_bar("scale", steps_of(settings)) as progress:
            report = run_scale(settings, progress)
    console = wide_console()
    for table in scale_tables(report):
        console.print(table)
    console.print(report.machine.sentence(), style="dim")
    _write(report, json, plots, page)


def _write(report: ScaleReport, json: Path | None, plots: Path | None, page: Path | None) -> None:
    if json is not None:
        write_json(report, json, indent=None)
    if plots is not None:
        save_plots({"scale": plot_scale(report)}, plots)
    if page is not None:
        fill_page(page, "scale", scale_markdown(report))
