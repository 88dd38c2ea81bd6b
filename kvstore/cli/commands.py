"""The command `paxon`. Its exit codes: paxon.kvstore.cli.exit_codes.

Commands import what they need when they run: `paxon get` must not wait for plots and tables.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import signal
import sys
from itertools import pairwise, takewhile
from typing import Annotated, NoReturn, TextIO, cast

import typer

from paxon.kvstore.cli import (
    backup,
    cluster,
    etcd,
    exit_codes,
    leases,
    locks,
    members,
    settings,
    store,
    transactions,
    watches,
)
from paxon.kvstore.cli.outlet import Outlet
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

__all__ = ["app", "main"]

_OUTPUT = (errno.ENOSPC, errno.EIO, errno.EBADF)
"""Errors that concern the output, if they name no file."""

app = typer.Typer(
    name="paxon",
    help="A durable, replicated key-value store: Multi-Paxos between a few servers.",
    epilog=exit_codes.TABLE.replace("\n", " "),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cluster.add_commands(app)
backup.add_commands(app)
etcd.add_commands(app)
members.add_commands(app)
settings.add_commands(app)
store.add_commands(app)
transactions.add_commands(app)
watches.add_commands(app)
locks.add_commands(app)
app.add_typer(leases.app, name="lease", rich_help_panel="The store")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 (it takes a while to import)

        typer.echo(f"paxon {version('paxon')}")
        raise typer.Exit


@app.callback()
def root(
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of the command as a whole."""


@app.command(
    "bench",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    rich_help_panel="Benchmarks",
    help="Measure throughput, latency and failover: see paxon bench --help.\n\n"
    "Example: paxon bench stable --quick",
)
def bench(context: typer.Context) -> None:
    """Hand over to the benches, which bring imports that no other command should wait for.

    They stand above this folder and are found by the name that the installation gives them.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 (see above)

    (benches,) = entry_points(group="paxon.commands", name="bench")
    benches.load()(args=context.args, prog_name="paxon bench")


def _flow(commands: typer.Typer) -> None:
    """Have `--help` break lines where the terminal ends, not where lines end in the source."""
    for command in commands.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


_flow(app)


def main() -> NoReturn:
    """Run the command line; whatever goes wrong is one sentence on stderr and an exit code.

    The exit code is told in any case: whether anybody reads stderr makes no difference to it.
    """
    _open_streams()
    # A terminal that closes, and `kill`, end us like Ctrl-C does: with everything tidied up.
    _write_utf8()
    sys.stderr = cast("TextIO", Outlet(2))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _terminate)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())


def _open_streams() -> None:
    """Have streams where we were started with some closed: to use those is an error, not a bug."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    if sys.stdin is None:
        sys.stdin = open(0)  # noqa: SIM115 (for as long as we live)
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115


def _write_utf8() -> None:
    """Keys, values and files' names are shown byte for byte, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def run() -> int:
    """`main` without signals and the end: the exit code of what `sys.argv` says."""
    if option := _names_nothing(sys.argv[1:]):
        _say(f"{option} is empty: name a directory (. is the one we are in)")
        return 2
    try:
        app(prog_name="paxon")
    except SystemExit as ending:
        return _exit_code(ending)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:  # the last resort: no traceback ever reaches a user
        return _explain(error)
    return 0


def _names_nothing(words: list[str]) -> str:
    """The option that was to name a directory and does not, as with a variable that is not set.

    Python would take that for the directory in which we are.
    """
    own = list(takewhile(lambda word: word != "--", words))
    for word, following in pairwise([*own, "--"]):
        if word in ("--dir=", "--into=") or (word in ("--dir", "-d", "--into") and not following):
            return word.rstrip("=")
    return ""


def _exit_code(ending: SystemExit) -> int:
    """The code that it carries, once what was printed has left."""
    if isinstance(ending.code, str):
        _say(ending.code)
        return 1
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        _say(f"the output cannot be written: {error.strerror}")
        _give_up(sys.stdout)
        return 1
    return ending.code if isinstance(ending.code, int) else 0


def _reader_gone() -> int:
    """Whoever read our output (`| head`) has seen enough."""
    _give_up(sys.stdout)
    return 1


def _give_up(stream: TextIO) -> None:
    # Python flushes it at its end; what is left there must not complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(sentence: str) -> None:
    sys.stderr.write(f"paxon: {sentence}\n")


def _words_of(error: OSError) -> str:
    if error.filename is None and error.errno == errno.ENOENT:  # it is what Python asks for
        return "the working directory is deleted: change to one that exists"
    if error.filename is None:
        output = error.errno in _OUTPUT
        return f"the output cannot be written: {error.strerror}" if output else str(error)
    from paxon.actors.disk.data_directory import in_words  # noqa: PLC0415 (only where it went wrong)

    return f"{os.fsdecode(error.filename)}: {in_words(error)}"


def _explain(error: Exception) -> int:
    from paxon.actors import SettingsError  # noqa: PLC0415 (only where something went wrong)
    from paxon.kvstore.cluster.cluster_file import ClusterFileError  # noqa: PLC0415
    from paxon.kvstore.cluster.local_cluster import ClusterOptionError  # noqa: PLC0415
    from paxon.kvstore.cluster.options import OptionError  # noqa: PLC0415
    from paxon.kvstore.errors import ClusterUnavailable, InvalidRequest, PaxonError  # noqa: PLC0415
    from paxon.transport import TransportError  # noqa: PLC0415
    from paxon.transport.context import TOO_FEW_FILES, TOO_FEW_THREADS  # noqa: PLC0415

    usage = (SettingsError, ClusterFileError, OptionError, ClusterOptionError, InvalidRequest)
    if isinstance(error, usage):
        _say(str(error))
        return 2
    if isinstance(error, PaxonError | TransportError):
        default = f"(asked {DEFAULT_CLIENTS.replace(',', ', ')})"
        nobody = isinstance(error, ClusterUnavailable) and default in str(error)
        _say(f"{error}; {store.START_ONE}" if nobody else str(error))
        return exit_codes.code_of(error)
    if os.environ.get("PAXON_DEBUG"):
        raise error
    kind = type(error).__name__
    if getattr(error, "errno", None) == errno.EMFILE:
        _say(TOO_FEW_FILES)
    elif isinstance(error, OSError):
        if _exit_code(SystemExit(0)) == 0:  # else it was the output, and that is told
            _say(_words_of(error))
    elif "can't start new thread" in str(error):  # Python's words
        _say(TOO_FEW_THREADS)
    else:
        _say(f"an internal error ({kind}: {error}); PAXON_DEBUG=1 shows where")
    return 1
