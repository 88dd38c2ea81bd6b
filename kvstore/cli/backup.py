"""`paxon backup`: the store in a file, checked, and a new cluster made of it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paxon.kvstore.cli.outlet import waiting
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    TimeoutOption,
    open_client,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.kvstore.cluster.backup import Summary

__all__ = ["add_commands"]

_ANYBODY_SECONDS = 10.0
"""Seconds after which no server is there; what one that is there answers may take longer."""

app = typer.Typer(
    help="Save the store while all serve, check a backup, make a new cluster from one.",
    no_args_is_help=True,
)

_File = Annotated[Path, typer.Argument(help="The backup.", show_default=False)]
_ClusterFile = Annotated[
    Path,
    typer.Option(
        "--cluster",
        "-c",
        envvar="PAXON_CLUSTER_FILE",
        metavar="FILE",
        help="The new cluster's file (TOML); the old one's will do.",
        show_default=False,
    ),
]
_Skip = Annotated[
    list[int] | None,
    typer.Option(
        metavar="SLOT",
        help="Take this slot for empty: executing it fails. May be given several times.",
        show_default=False,
    ),
]
_Machine = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CLASS", help="A state machine of your own instead of the store."),
]


@app.command()
def save(
    file: _File,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Write all keys and leases, as they were after one revision, into a new file, and check it.

    Example: paxon backup save monday.paxon --cluster cluster.toml
    """
    from paxon.kvstore.cluster import backup  # noqa: PLC0415 (keeps other commands quick)

    with waiting(f"{file} is whole, or not there"), open_client(cluster, key_file, timeout) as kv:
        name = kv.cluster_members(stale=True, timeout=min(timeout, _ANYBODY_SECONDS)).cluster
        found = backup.save(kv, file, name)
    _print("saved", file, found, as_json=as_json)


@app.command()
def verify(file: _File, as_json: JsonOption = False) -> None:
    """Read all of a backup and say what it holds; exit code 1 if anything in it is wrong.

    Example: paxon backup verify monday.paxon --json
    """
    from paxon.kvstore.cluster import backup  # noqa: PLC0415

    _print("is whole", file, backup.verify(file), as_json=as_json)


@app.command()
def restore(
    file: _File,
    cluster: _ClusterFile,
    *,
    number: Annotated[
        int | None,
        typer.Option(
            "--id", "-i", show_default=False,
            help="Make a cluster of this server alone, for the others to join.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Make the directories server-1, server-2, … in here, for moving."),
    ] = None,
    of: Annotated[
        str,
        typer.Option(
            "--from", metavar="NAME", help="The backup's cluster, if the new one has another name."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Make the data directories of a new cluster, with another identity, that holds a backup.

    Examples: paxon backup restore monday.paxon --cluster orders.toml | paxon backup restore
    monday.paxon --cluster copy.toml --from orders
    """
    import msgspec  # noqa: PLC0415

    from paxon.kvstore.cluster import backup  # noqa: PLC0415
    from paxon.kvstore.cluster.cluster_file import ClusterDescription  # noqa: PLC0415

    described = ClusterDescription.read(cluster)
    servers = described.servers
    if number is not None:
        servers = {number: described.plan(number).entry}
    if into is not None:
        servers = {
            server: msgspec.structs.replace(
                entry, directory=str(into.absolute() / f"server-{server}")
            )
            for server, entry in servers.items()
        }
    described = msgspec.structs.replace(described, servers=servers)
    with waiting("either all of it is in place, or nothing"):
        found = backup.restore(file, described, of=of)
    _print("restored", file, found, as_json=as_json)
    if not as_json:
        for entry in described.servers.values():
            sys.stdout.write(f"server {entry.id}: {entry.directory}\n")


def recover(
    *,
    cluster: _ClusterFile,
    number: Annotated[
        int,
        typer.Option(
            "--id", "-i", envvar="PAXON_SERVER_ID", show_default=False,
            help="The server whose directory is left.",
        ),
    ],
    into: Annotated[
        Path, typer.Option(help="The new directory, which must be empty.", show_default=False)
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", help="The directory that is left, if not as in the file."),
    ] = None,
    skip: _Skip = None,
    machine: _Machine = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even if it is another's directory, or others went on without it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """A majority is lost for good: make a cluster of one from what a single directory holds.

    What others acknowledged and this one never heard of is lost. The directory itself stays as it
    is: never start it again, nor any other server of the old cluster.

    Example: paxon recover --cluster cluster.toml --id 1 --into /var/lib/paxon/recovered
    """
    import msgspec  # noqa: PLC0415

    from paxon.kvstore.cluster import recovery  # noqa: PLC0415
    from paxon.kvstore.cluster.cluster_file import STORE_MACHINE, ClusterDescription  # noqa: PLC0415

    plan = ClusterDescription.read(cluster).plan(number, machine=machine or STORE_MACHINE)
    if directory is not None:
        plan = plan.moved_to(directory)
    if machine is not None:
        sys.path.insert(0, str(Path.cwd()))  # it may well be beside the cluster file
    with waiting("either all of it is in place, or nothing"):
        found = recovery.recover(plan, into, skip=skip or (), force=force)
    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(found)) + "\n")
        return
    words = ["paxon", "server", "--cluster", cluster, "--id", number, "--dir", into]
    words += [] if machine is None else ["--machine", machine]
    next_step = (
        f"next: {shlex.join(map(str, words))}; what is left of the old cluster must never start "
        "again"
    )
    sys.stdout.write("".join(f"{line}\n" for line in (*found.sentences(), next_step)))


def add_commands(root: typer.Typer) -> None:
    """Mount the commands of this module."""
    root.add_typer(app, name="backup", rich_help_panel="Clusters")
    root.command(rich_help_panel="Clusters")(recover)


def _print(what: str, file: Path, found: Summary, *, as_json: bool) -> None:
    import msgspec  # noqa: PLC0415

    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(found)) + "\n")
        return
    keys = "1 key" if found.keys == 1 else f"{found.keys:,} keys"
    leases = "1 lease" if found.leases == 1 else f"{found.leases:,} leases"
    saved_at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.saved_at))
    sys.stdout.write(
        f"{file} {what}: {keys} and {leases} of cluster {found.cluster!r} "
        f"at revision {found.revision:,}, of {saved_at}; {found.bytes:,} bytes\n"
    )
