"""`paxon settings`: what all servers agree on, shown and changed; `paxon leader`: who leads."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from paxon.kvstore.cli.outlet import waiting
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    TimeoutOption,
    find_target,
    open_client,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.kvstore.client.agreement import ClusterSettings

__all__ = ["add_commands"]

_TIMEOUT = 10.0


def settings(
    *,
    assignments: Annotated[
        list[str],
        typer.Argument(
            metavar="[set NAME VALUE …]",
            help="Settings to change, and their new values; without any all are shown.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (typer's way to say "several, none by default")
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Show or change the settings that all servers agree on; needs a leader, no restart.

    Examples: paxon settings --json | paxon settings set session_ttl 7200
    """
    new = _new_values(assignments)
    target = find_target(cluster, key_file)
    from paxon.kvstore.client.client import Client  # noqa: PLC0415 (after the arguments are known good)

    addresses = list(target.addresses.values())
    stands = (
        "the new values may be in force: see `paxon settings`" if new else "nothing was changed"
    )
    with waiting(stands), Client(addresses, timeout=timeout, secure=target.secure) as store:
        agreed = store.change_settings(**new) if new else store.settings()
    if as_json:
        described = {"settings": agreed.values, "from_slot": agreed.from_slot}
        sys.stdout.write(json.dumps(described) + "\n")
    elif new:
        sys.stdout.write(f"{_line(agreed, list(new))} (from slot {agreed.from_slot} on)\n")
    else:
        width = max(map(len, agreed.values))
        for name in agreed.values:
            sys.stdout.write(f"{name:{width}}  {_shown(agreed, name)}\n")
        sys.stdout.write(f"in force from slot {agreed.from_slot} on\n")


def _new_values(arguments: list[str]) -> dict[str, float]:
    """The values of `set NAME VALUE …`; empty without it. Raises typer.BadParameter."""
    hint = "set NAME VALUE …"
    if not arguments:
        return {}
    if arguments[0] != "set":
        raise typer.BadParameter(f"{arguments[0]!r}: only 'set' may follow", param_hint=hint)
    rest = arguments[1:]
    if not rest or len(rest) % 2:
        raise typer.BadParameter("give names and values in turns", param_hint=hint)
    new: dict[str, float] = {}
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        if name in new:
            raise typer.BadParameter(f"{name} is given twice", param_hint=hint)
        new[name.replace("-", "_")] = _number(name, text)
    return new


def _number(name: str, text: str) -> float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{name} = {text!r}: must be a number", param_hint="set NAME VALUE …")


def _line(agreed: ClusterSettings, names: list[str]) -> str:
    return ", ".join(f"{name} = {_shown(agreed, name)}" for name in names)


def _shown(agreed: ClusterSettings, name: str) -> str:
    value = agreed[name]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


leader = typer.Typer(help="Have another server lead, while all serve.", no_args_is_help=True)


leader.callback()(lambda: None)  # (else its one command would be `paxon leader` itself)


@leader.command()
def transfer(
    *,
    to: Annotated[
        int | None,
        typer.Option(help="The server that is to lead; by default the most up-to-date one."),
    ] = None,
    unless_other: Annotated[
        int | None,
        typer.Option("--from", help="Do nothing unless this server leads."),
    ] = None,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Have another server lead, and wait until it does. (A server that is stopped does so itself.)

    Examples: paxon leader transfer | paxon leader transfer --from 1 --to 3 --cluster cluster.toml
    """
    stands = "another server may lead now, or soon: see `paxon status`"
    with waiting(stands), open_client(cluster, key_file, timeout) as kv:
        found = kv.transfer_leader(to, only_from=unless_other)
    sys.stdout.write(json.dumps({"leader": found}) + "\n" if as_json else f"server {found} leads\n")


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.add_typer(leader, name="leader", rich_help_panel="Clusters")
    app.command(rich_help_panel="Clusters")(settings)
