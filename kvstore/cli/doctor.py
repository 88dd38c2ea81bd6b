"""`paxon doctor`: what is wrong with host, cluster file or running servers, and what to change."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from paxon.kvstore.cli.exit_codes import FAILED
from paxon.kvstore.cli.store import JsonOption

__all__ = ["add_commands"]

_SHOWN = {"good": "ok  ", "look": "look", "bad": "BAD "}


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
    """Mount the command of this module."""
    app.command(rich_help_panel="Clusters")(doctor)
