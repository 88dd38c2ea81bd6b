"""What the commands of `paxon bench` share: flags, checks, the progress bar, and the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from paxon.actors.settings import PolicyName
from paxon.bench.harness.pages import make_directory
from paxon.bench.harness.plot_style import check_plot
from paxon.bench.harness.report import Report, check_writable, write_json
from paxon.kvstore.local_cluster import Transport
from paxon.kvstore.options import Durability, parse_assignments

__all__ = [
    "MAX_SERVERS",
    "Servers",
    "Seconds",
    "Warmup",
    "Repeat",
    "ValueSize",
    "DurabilityOption",
    "TransportOption",
    "Seed",
    "Quick",
    "Assignments",
    "JsonFile",
    "PlotFile",
    "PlotDirectory",
    "PageFile",
    "SourceFile",
    "chosen_names",
    "server_options",
    "known_policies",
    "known_proposers",
    "check_outputs",
    "progress_bar",
    "finish",
    "wide_console",
]

MAX_SERVERS = 9

Servers = Annotated[
    int, typer.Option("--servers", "-s", min=1, max=MAX_SERVERS, help="How many servers.")
]
Seconds = Annotated[
    float, typer.Option(min=0.1, help="Seconds of each measurement, after the warm-up.")
]
Warmup = Annotated[float, typer.Option(min=0.0, help="Seconds of load before each measurement.")]
Repeat = Annotated[int, typer.Option(min=1, help="How often everything is measured.")]
ValueSize = Annotated[
    int, typer.Option("--value-size", min=0, max=8 << 20, help="Bytes of each value.")
]
DurabilityOption = Annotated[
    Durability, typer.Option(help="disk syncs before answering; memory forgets all.")
]
TransportOption = Annotated[Transport, typer.Option(help="What servers talk to each other over.")]
Seed = Annotated[int, typer.Option(help="Decides the order of keys and of variants.")]
Quick = Annotated[bool, typer.Option("--quick", help="A rough impression in under a minute.")]
Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set an option of the servers, such as window=32; may be given several times.",
        show_default=False,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write all figures to this file.", show_default=False
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the figures (.png, .svg or .pdf; needs matplotlib).",
        show_default=False,
    ),
]
PlotDirectory = Annotated[
    Path | None,
    typer.Option(
        "--plots", metavar="DIR", help="Draw the figures as SVG and PNG into this directory.",
        show_default=False, file_okay=False,
    ),
]  # fmt: skip
PageFile = Annotated[
    Path | None,
    typer.Option(
        "--page", metavar="FILE", help="Put the tables between the marks of this Markdown page.",
        show_default=False, dir_okay=False,
    ),
]  # fmt: skip


SourceFile = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Measure nothing: show a run that --json has kept.",
        show_default=False, exists=True, dir_okay=False,
    ),
]  # fmt: skip

NameT = TypeVar("NameT", bound=str)


def chosen_names(
    given: Sequence[str],
    known: Sequence[NameT],
    flag: str,
    *,
    default: Sequence[NameT] | None = None,
) -> tuple[NameT, ...]:
    """Names from flags and comma-separated lists, without repetition; `default` if there are none.

    Raises typer.BadParameter for one that is not known.
    """
    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    if not parts:
        return tuple(known if default is None else default)
    found: list[NameT] = []
    for name in dict.fromkeys(parts):
        match = next((one for one in known if one == name), None)
        if match is None:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint=flag)
        found.append(match)
    return tuple(found)


def server_options(assignments: list[str], *decided: str) -> dict[str, Any]:
    """What `--set` says. Raises typer.BadParameter for what has a flag or is up to the bench."""
    options = parse_assignments(assignments)
    for name in ("durability", *decided):
        if name in options:
            raise typer.BadParameter(f"{name} is not set like this here", param_hint="--set")
    return options


def known_policies(names: Sequence[str]) -> tuple[PolicyName, ...]:
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


def known_proposers(numbers: Sequence[int], servers: int) -> tuple[int, ...]:
    """In order, without repetition. Raises typer.BadParameter for more than there are servers."""
    if max(numbers) > servers:
        raise typer.BadParameter(
            f"{max(numbers)} of {servers} servers cannot try to lead", param_hint="--proposers"
        )
    return tuple(sorted(set(numbers)))


def check_outputs(json: Path | None, plot: Path | None, directory: Path | None = None) -> None:
    """Raise `BenchError` before anything is measured for nothing.

    `directory` is where the plot will be, and is made; None if it has to be there.
    """
    if json is not None:
        check_writable(json)
    if plot is not None:
        check_plot(plot)
        if directory is not None:
            make_directory(directory)
        check_writable(plot)


@contextmanager
def progress_bar(title: str, steps: int) -> Iterator[Callable[[str], None]]:
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


def finish(report: Report[Any, Any], table: Table, json: Path | None) -> None:
    """Print the table; write the file."""
    if json is not None:
        write_json(report, json)
    console = wide_console()
    console.print(table)
    console.print(report.machine.sentence(), style="dim")


def wide_console() -> Console:
    """For tables: a file or a pipe has no edge, so that nothing is cut off."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
