"""`paxon bench …`: the benchmarks' command line. Tables go to stdout, progress to stderr.

Each command is made of its bench's settings (see `Bench`): a flag for each field, then the flags
that say where the figures go.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typer.models import OptionInfo

from paxon.bench.cli.figures import FIGURES
from paxon.bench.contention.compare import COMPARE, CONTENTION
from paxon.bench.coordination.run import COORDINATION
from paxon.bench.harness import report as reports
from paxon.bench.harness.flags import chosen_names, server_options
from paxon.bench.harness.plot_style import check_plots, save_plot
from paxon.bench.harness.report import Bench, Report
from paxon.bench.peers.run import PEERS
from paxon.bench.scale.scale import SCALE
from paxon.bench.stable.failover import FAILOVER
from paxon.bench.stable.pair import PAIR
from paxon.bench.stable.stable import STABLE

__all__ = ["app"]

BENCHES: tuple[Bench, ...] = (
    FIGURES, STABLE, CONTENTION, COMPARE, SCALE, FAILOVER, PAIR, PEERS, COORDINATION,
)  # fmt: skip

_annotated: Any = Annotated  # for types that are known at run time only
_KEYWORD = inspect.Parameter.KEYWORD_ONLY

app = typer.Typer(
    help="Measure Paxon on this machine: servers, clients and the floor share its cores.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


class Outputs(NamedTuple):
    """Where the figures of a run go, besides the terminal."""

    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures to this file.")
    ] = None
    plots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw all pictures as SVG and PNG into this directory."),
    ] = None
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the tables between the marks of this page."),
    ] = None
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", exists=True, dir_okay=False,
            help="Measure nothing: show a run that --json has kept.",
        ),
    ] = None  # fmt: skip

    def check(self, bench: Bench) -> None:
        """Raise `BenchError` before anything is measured for nothing."""
        if self.json is not None:
            reports.check_writable(self.json)
        if self.plots is not None:
            check_plots()
            with reports.told(self.plots, "made"):
                self.plots.mkdir(parents=True, exist_ok=True)
        if self.page is not None:
            reports.fill_page(self.page, bench.name, "", write=False)

    def write(self, bench: Bench, report: Report[Any, Any]) -> None:
        """Write what was asked for. Raises `BenchError`."""
        if self.json is not None:
            reports.write_json(report, self.json)
        if self.page is not None:
            text = reports.markdown(report, bench.sections(report), bench.notes(report))
            reports.fill_page(self.page, bench.name, text)
        if bench.plots is not None and self.plots is not None:
            for name, picture in bench.plots(report).items():
                save_plot(picture, self.plots / name)


def carry_out(bench: Bench, settings: Any, outputs: Outputs) -> None:
    """Run a bench, or show what an earlier run has kept."""
    if bench.instead(settings):
        return
    outputs.check(bench)
    if outputs.source is not None:
        report = reports.read_json(outputs.source, bench.report)
    else:
        began = reports.now_in_utc()
        with _progress(bench.name) as progress:
            report = msgspec.structs.replace(bench.run(settings, progress), started=began)
    # A file or a pipe has no edge, so that nothing is cut off.
    console = Console(width=None if sys.stdout.isatty() else 220)
    for section in bench.sections(report):
        console.print(reports.rich_table(section))
    for line in (*bench.notes(report), report.machine.sentence()):
        console.print(line, style="dim", highlight=False)
    outputs.write(bench, report)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr, if that is a terminal; hands out what is to be called before each step."""
    console = Console(stderr=True)
    shown = Progress(
        SpinnerColumn(), TextColumn(title), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with shown:
        task = shown.add_task("starting", total=None)
        yield lambda what: shown.update(task, description=what)


def _flags(of: type[Any], defaults: dict[str, Any]) -> list[inspect.Parameter]:
    """A flag for each field that has a `typer.Option`."""
    flags = []
    for name, hint in get_type_hints(of, include_extras=True).items():
        known = getattr(hint, "__metadata__", ())
        option = next((one for one in reversed(known) if isinstance(one, OptionInfo)), None)
        if option is None:
            continue
        kind, default = get_args(hint)[0], defaults[name]
        option.metavar = option.metavar or "|".join(_names(kind)) or None
        if get_origin(kind) in (tuple, dict):
            kind, default = list[str], list(default)
        annotation = _annotated[kind, option]
        flags.append(inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation))
    return flags


def _names(kind: Any) -> tuple[str, ...]:
    """Those that a tuple of names may have; none if it is no such type."""
    return get_args(get_args(kind)[0]) if get_origin(kind) is tuple else ()


def settings_from(of: type[Any], given: dict[str, Any]) -> Any:
    """The settings that flags say. Raises typer.BadParameter for what makes no sense."""
    kinds, values = get_type_hints(of), dict(given)
    for name, value in given.items():
        try:
            if _names(kinds[name]):
                values[name] = chosen_names(value, _names(kinds[name]))
            elif get_origin(kinds[name]) is dict:
                values[name] = server_options(value, getattr(of, "DECIDED", ()))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=f"--{name}") from None
    if values.get("quick"):
        for name, most in of.QUICK.items():
            values[name] = min(values[name], most)
    try:
        return of(**values)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def command_of(bench: Bench) -> Callable[..., None]:
    """The command of a bench, as typer wants it: a function with a signature."""
    defaults = msgspec.structs.asdict(bench.settings())

    def command(**given: Any) -> None:
        outputs = Outputs(**{name: given.pop(name, None) for name in Outputs._fields})
        carry_out(bench, settings_from(bench.settings, given), outputs)

    flags = _flags(bench.settings, defaults)
    wanted = [name for name in Outputs._fields if bench.plots or name != "plots"]
    flags += [flag for flag in _flags(Outputs, Outputs._field_defaults) if flag.name in wanted]
    command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}
    command.__doc__ = bench.help
    return command


for _bench in BENCHES:
    app.command(_bench.name)(command_of(_bench))
