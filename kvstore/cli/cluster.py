"""`paxon demo`, `up`, `server`, `keygen`, `status`, `doctor`: clusters from a shell."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paxon.kvstore.cli.exit_codes import FAILED, UNAVAILABLE
from paxon.kvstore.cli.store import (
    START_ONE,
    ClusterOption,
    JsonOption,
    KeyOption,
    find_target,
    real,
)
from paxon.kvstore.client.addresses import DEFAULT_BASE_PORT, DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.kvstore.cluster.cluster_file import ClusterDescription, ServerPlan
    from paxon.kvstore.cluster.logs import LogFormat
    from paxon.kvstore.cluster.server_process import Report
    from paxon.kvstore.cluster.status import ServerStatus

__all__ = ["add_commands"]

_ONE_OF_BOTH = "leave out --peer and --client, or the file (--cluster, PAXON_CLUSTER_FILE)"
_PANEL = "Clusters"
_SHOWN = {"good": "ok  ", "look": "look", "bad": "BAD "}
"""How `paxon doctor` marks what it finds."""

_Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set an option, such as heartbeat_interval=0.1; may be given several times.",
        show_default=False,
    ),
]
_Durability = Annotated[
    str | None,
    typer.Option(
        "--durability",
        metavar="[disk|memory]",
        help="disk syncs before answering; memory forgets all, for tests.",
        show_default=False,
    ),
]


_LogLevel = Annotated[
    str, typer.Option(envvar="PAXON_LOG_LEVEL", help="Level of the log in its directory.")
]
_StderrLevel = Annotated[
    str, typer.Option(envvar="PAXON_STDERR_LEVEL", help="Level of what it logs on stderr, too.")
]
_LogFormat = Annotated[
    str,
    typer.Option(
        envvar="PAXON_LOG_FORMAT", metavar="[text|json]", help="Lines for people, or JSON objects."
    ),
]
_Metrics = Annotated[
    str | None,
    typer.Option(
        envvar="PAXON_METRICS",
        metavar="[HOST:]PORT",
        help="Show figures (/metrics) and health (/health/live, /health/ready) by HTTP here.",
        show_default=False,
    ),
]


_Number = Annotated[
    int,
    typer.Option(
        "--id",
        "-i",
        envvar="PAXON_SERVER_ID",
        help="This server's id in the file.",
        show_default=False,
    ),
]
_Join = Annotated[
    str | None,
    typer.Option(
        "--join",
        envvar="PAXON_JOIN",
        metavar="ADDRESSES",
        help="Become a member of the cluster that serves clients there (then: paxon member).",
        show_default=False,
    ),
]
_OwnPeer = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Without a file: where servers reach it.", show_default=False
    ),
]
_OwnClient = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Without a file: where clients reach it.", show_default=False
    ),
]


def demo(
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=1, max=9, help="How many servers.")
    ] = 3,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.5, max=60, help="Seconds of load before and after the kill.", callback=real
        ),
    ] = 3.0,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            help="Keep data and logs here, instead of removing them at the end.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """See it work: a cluster, real data, the leader killed, failover, equal logs; in a minute.

    Example: paxon demo --servers 5
    """
    from paxon.kvstore.cli.demo import run_demo  # noqa: PLC0415 (keeps other commands quick)

    raise typer.Exit(run_demo(servers, seconds, directory))


def up(
    *,
    servers: Annotated[
        int, typer.Option("--servers", "-s", min=1, max=63, help="How many servers.")
    ] = 3,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            help="Where data and logs go; by default a temporary directory, removed at the end.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            "-p",
            envvar="PAXON_PORT",
            min=1,
            max=65_000,
            help="Base port: server N takes base+10·N for servers and one above for clients.",
        ),
    ] = DEFAULT_BASE_PORT,
    etcd: Annotated[
        int | None,
        typer.Option(
            "--etcd",
            min=1,
            max=65_535,
            show_default=False,
            help="Serve the etcd v3 API at this port, too (docs/etcd.md).",
        ),
    ] = None,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="Encrypt: each server gets a key pair (docs/running/keys.md)."),
    ] = False,
    durability: _Durability = None,
    metrics: Annotated[
        int | None,
        typer.Option(
            envvar="PAXON_METRICS",
            min=1,
            max=65_000,
            help="Server N shows figures and health by HTTP at this port plus N - 1.",
            show_default=False,
        ),
    ] = None,
    settings: _Settings = [],  # noqa: B006 (typer's way to say "several, none by default")
) -> None:
    """Run a cluster on this machine, in the foreground, until Ctrl-C.

    Examples: paxon up | paxon up --servers 5 --dir data --port 7200 --set heartbeat_interval=0.1
    """
    import os  # noqa: PLC0415

    from paxon.kvstore.cli.up import run_up  # noqa: PLC0415
    from paxon.kvstore.cluster.options import (  # noqa: PLC0415
        from_environment,
        parse_assignments,
        parse_option,
    )

    options = from_environment(os.environ) | parse_assignments(settings)
    if durability is not None:
        options["durability"] = parse_option("durability", durability)
    options |= {"keys": True} if keys else {}
    raise typer.Exit(run_up(servers, directory, port, options, metrics, etcd=etcd))


def server(
    *,
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster", "-c", envvar="PAXON_CLUSTER_FILE", metavar="FILE",
            help="The cluster file (TOML).", show_default=False,
        ),
    ] = None,
    number: _Number,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", help="Its data directory, if not as in the file."),
    ] = None,
    durability: _Durability = None,
    join: _Join = None,
    peer: _OwnPeer = None,
    client: _OwnClient = None,
    rejoin: Annotated[
        bool, typer.Option("--rejoin", help="Its directory was lost: come back with an empty one.")
    ] = False,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS", help="A state machine of your own instead of the store."
        ),
    ] = None,
    metrics: _Metrics = None,
    log_level: _LogLevel = "INFO",
    stderr_level: _StderrLevel = "WARNING",
    log_format: _LogFormat = "text",
    settings: _Settings = [],  # noqa: B006 (see up)
) -> None:  # fmt: skip
    """Run one server of a cluster that a TOML file describes, until SIGTERM or Ctrl-C.

    Examples: paxon server --cluster cluster.toml --id 2 | paxon server --id 4 --dir data
    --join tcp://10.0.0.1:7111 --peer tcp://10.0.0.4:7140 --client tcp://10.0.0.4:7141
    """
    from paxon.kvstore.cluster.cluster_file import STORE_MACHINE, ClusterDescription  # noqa: PLC0415
    from paxon.kvstore.cluster.logs import check_log_format, check_log_level  # noqa: PLC0415
    from paxon.kvstore.cluster.options import parse_assignments, parse_option  # noqa: PLC0415
    from paxon.kvstore.cluster.server_process import run_server  # noqa: PLC0415

    flags = parse_assignments(settings)
    if durability is not None:
        flags["durability"] = parse_option("durability", durability)
    if rejoin:
        flags["rejoin"] = True
    if cluster is None:
        description = _alone(number, directory, peer, client, join)
    elif peer or client:
        raise typer.BadParameter(f"{cluster} has the addresses: {_ONE_OF_BOTH}")
    else:
        description = ClusterDescription.read(cluster)
    if join:
        description = _joining(description, number, directory, join)
    plan = description.plan(number, flags, os.environ, machine or STORE_MACHINE, join=bool(join))
    if directory is not None:
        plan = plan.moved_to(directory)
    if metrics:
        plan = plan.showing_at(metrics)

    if machine is not None:
        sys.path.insert(0, str(Path.cwd()))  # it may well be beside the cluster file
    code = run_server(
        plan, _reporter(plan, form := check_log_format(log_format)), log_format=form,
        log_level=check_log_level(log_level), stderr_level=check_log_level(stderr_level),
    )  # fmt: skip
    raise typer.Exit(code)


def _alone(
    number: int, directory: Path | None, peer: str | None, client: str | None, join: str | None
) -> ClusterDescription:
    """The description, by flags, of a server that joins and has no cluster file."""
    from paxon.kvstore.client.addresses import check_dialled  # noqa: PLC0415
    from paxon.kvstore.cluster.cluster_file import ClusterDescription, ServerEntry  # noqa: PLC0415

    if not join:
        raise typer.BadParameter("give the cluster file, or --join", param_hint="--cluster")
    if directory is None or peer is None or client is None:
        raise typer.BadParameter(
            "without a cluster file it needs --dir, --peer and --client", param_hint="--join"
        )
    try:
        for address in (peer, client):
            check_dialled(address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peer, --client") from None
    entry = ServerEntry(
        id=number, peer=peer, client=client, peer_bind=peer, client_bind=client,
        directory=str(directory.absolute()),
    )  # fmt: skip
    return ClusterDescription(id="", servers={number: entry}, source="--join")


def _joining(
    description: ClusterDescription, number: int, directory: Path | None, join: str
) -> ClusterDescription:
    """The same, of the cluster that serves at these addresses."""
    from msgspec.structs import replace  # noqa: PLC0415

    from paxon.kvstore.client.links import server_addresses  # noqa: PLC0415
    from paxon.kvstore.cluster.cluster_file import cluster_to_join  # noqa: PLC0415
    from paxon.transport import CurveKeys  # noqa: PLC0415

    own = description.entry(number)
    keys = CurveKeys.load(Path(own.key_file)) if own.public_key else None
    where = directory if directory is not None else Path(own.directory)
    secure = description.secure(keys)
    name, members = cluster_to_join(server_addresses(join), where, secure)
    if not description.id:
        description = replace(description, id=name)
    return description.joining(number, name, members)


def _reporter(plan: ServerPlan, form: LogFormat) -> Callable[[Report], None]:
    """Tells people on stderr that the server serves, or why it stops; never waits for them."""
    from paxon.kvstore.cluster.logs import named, tell  # noqa: PLC0415

    number, cluster = plan.entry.id, plan.settings.cluster

    def report(what: Report) -> None:
        if what.ready:
            sentence = (
                f"server {number} of cluster '{cluster}' serves clients at "
                f"{plan.entry.client}; its data and log are in {plan.entry.directory}"
            )
            tell("INFO", sentence, form)
        else:
            tell("ERROR", named(number, what.sentence), form)

    return report


def keygen(
    file: Annotated[
        Path,
        typer.Argument(help="The key pair's file, made if it is not there.", show_default=False),
    ],
) -> None:
    """Make a key pair, if the file is not there yet, and print its public key.

    Example: paxon keygen /etc/paxon/server-1.key
    """
    from paxon.transport import CurveKeys  # noqa: PLC0415

    sys.stdout.write(f'public_key = "{CurveKeys.load_or_generate(file).public}"\n')


def status(
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0.001, help="Seconds to wait for answers.")
    ] = 1.0,
    state: Annotated[
        bool,
        typer.Option("--state", help="Also compute a fingerprint of each state: up to 20 ms each."),
    ] = False,
    counters: Annotated[
        bool, typer.Option("--counters", help="Show all that is counted, and what it means.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every second, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show role, ballot, slots, disk of every server, and what is wrong.

    A ballot is ROUND.LEADER; after a change of the members, eEPOCH:ROUND.LEADER.

    Exit code 5 if no majority answers; 1 if servers have executed different things, none or
    several say that they lead, or a server waits to take part.

    Examples: paxon status | paxon status --json --cluster cluster.toml
    """
    from paxon.kvstore.cli.live_view import counters_explained, status_json  # noqa: PLC0415
    from paxon.kvstore.cluster.health import answering, problems  # noqa: PLC0415
    from paxon.kvstore.cluster.status import look_around  # noqa: PLC0415

    if counters and (watch or state) and not as_json:
        other = "--watch" if watch else "--state"
        raise typer.BadParameter("--json has them as well", param_hint=f"--counters with {other}")
    target = find_target(cluster, key_file)

    def look() -> list[ServerStatus]:
        return look_around(target.addresses, timeout, target.secure, state=state)

    if watch:
        from paxon.kvstore.cli.live_view import watch_status  # noqa: PLC0415

        watch_status(look, as_json=as_json, digest=state)
    rows = look()
    if as_json:
        sys.stdout.write(json.dumps(status_json(rows), ensure_ascii=False) + "\n")
    elif counters:
        sys.stdout.write(counters_explained(rows))
    else:
        _print_table(rows, state=state)
    found = problems(rows)
    if cluster == DEFAULT_CLIENTS and not any(row.reply for row in rows):
        found[0] += f"; {START_ONE}"
    for problem in found:
        sys.stderr.write(f"paxon: {problem}\n")
    if found:
        there, all_ = answering(rows)
        raise typer.Exit(UNAVAILABLE if there <= all_ // 2 else FAILED)


def _print_table(rows: list[ServerStatus], *, state: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from paxon.kvstore.cli.live_view import status_table  # noqa: PLC0415

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # what is piped is read on a terminal in the end
    console.print(status_table(rows, width=console.width, digest=state))


def doctor(
    cluster: Annotated[
        Path,
        typer.Option(
            "--cluster",
            "-c",
            envvar="PAXON_CLUSTER_FILE",
            metavar="FILE",
            help="The cluster file (TOML).",
            show_default=False,
        ),
    ],
    number: Annotated[
        int | None,
        typer.Option(
            "--id", "-i", envvar="PAXON_SERVER_ID", show_default=False,
            help="Check this host for that server: ports, directory, disk.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Look at file, names, ports, disk, clock, limits and running servers; say what to change.

    Exit code 1 if anything is bad.

    Example: paxon doctor --cluster cluster.toml --id 1
    """
    from paxon.kvstore.cluster.cluster_file import ClusterDescription  # noqa: PLC0415
    from paxon.kvstore.cluster.doctor import examine  # noqa: PLC0415

    bad = False
    found = []
    for finding in examine(ClusterDescription.read(cluster), number):
        bad = bad or finding.level == "bad"
        if as_json:
            found.append({"level": finding.level, "what": finding.what, "text": finding.text})
        else:
            sys.stdout.write(f"{_SHOWN[finding.level]} {finding.what:10} {finding.text}\n")
    if as_json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    if bad:
        raise typer.Exit(FAILED)


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (demo, up, server, keygen, status, doctor):
        app.command(rich_help_panel=_PANEL)(command)
