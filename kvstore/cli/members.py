"""`paxon member`: who the members are, and changing them while they serve (docs/membership.md)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paxon.kvstore.cli.outlet import waiting
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    find_target,
    open_client,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.actors.members import Member, MemberChange, Members
    from paxon.kvstore.client.client import Client
    from paxon.kvstore.cluster.cluster_file import ServerEntry

__all__ = ["add_commands"]

member = typer.Typer(help="Add, replace and remove servers, while all serve.", no_args_is_help=True)

_TIMEOUT = 60.0
_UNTOUCHED = "nothing was changed"
"""A server that is added has all that the cluster holds to fetch."""

_Server = Annotated[int, typer.Argument(metavar="ID", help="The server's id.", show_default=False)]
_Timeout = Annotated[
    float, typer.Option("--timeout", "-t", min=0.001, help="Seconds that all of it may take.")
]
_Peer = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where other servers reach it, if not where it says.")
]
_Client = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where clients reach it, if not where it says.")
]
_PublicKey = Annotated[
    str, typer.Option(metavar="KEY", help="Its public key, where servers have keys (paxon keygen).")
]
_Incarnation = Annotated[
    int,
    typer.Option(
        metavar="NUMBER", help="That of its directory, if the cluster has not heard from it."
    ),
]


def list_members(
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show the members in force, and the servers that wait to become members.

    Examples: paxon member list | paxon member list --json --cluster tcp://10.0.0.1:7111
    """
    with open_client(cluster, key_file, timeout) as kv:
        _show(kv.cluster_members(), as_json=as_json)


def add(
    server: _Server,
    *,
    learner: Annotated[
        bool, typer.Option("--learner", help="Give it no vote: it only keeps all data.")
    ] = False,
    peer: _Peer = "",
    client: _Client = "",
    public_key: _PublicKey = "",
    incarnation: _Incarnation = 0,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Make a server that was started with `paxon server --join` a member.

    It first learns all that there is, without a vote, and gets its vote once it is level. If that
    took too long, ask again: it goes on where it stopped.

    Examples: paxon member add 4 | paxon member add 4 --learner --timeout 300
    """
    given = _given(server, cluster, (incarnation, peer, client, public_key))
    with waiting(_UNTOUCHED) as tell, _client_for(given, cluster, key_file, timeout) as kv:
        found = kv.add_member(server, learner=learner, tell=tell, **given)
    _show(found, as_json=as_json)


def replace(
    server: _Server,
    *,
    peer: _Peer = "",
    client: _Client = "",
    public_key: _PublicKey = "",
    incarnation: _Incarnation = 0,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Give the place of a server whose disk is lost to a new directory, under the same id.

    Stop the old one, and start the server on an empty directory with `paxon server --join` first.

    Example: paxon member replace 2
    """
    given = _given(server, cluster, (incarnation, peer, client, public_key))
    with waiting(_UNTOUCHED) as tell, _client_for(given, cluster, key_file, timeout) as kv:
        found = kv.replace_member(server, tell=tell, **given)
    _show(found, as_json=as_json)


def _given(server: int, cluster: str, said: tuple[int, str, str, str]) -> dict[str, Any]:
    """The lines on a new server; where it has keys, the rest as the cluster file has it."""
    incarnation, peer, client, key = said
    servers = _described_in(cluster)
    entry = servers.get(server)
    if entry is not None and entry.public_key:
        peer, client = peer or entry.peer, client or entry.client
        key = key or entry.public_key
    _check_key(server, key, servers)
    return {"incarnation": incarnation, "peer": peer, "client": client, "key": key}


def _described_in(cluster: str) -> dict[int, ServerEntry]:
    """The servers of a cluster file; none if addresses are given."""
    if not cluster.endswith(".toml"):
        return {}
    from pathlib import Path  # noqa: PLC0415 (rarely needed)

    from paxon.kvstore.cluster.cluster_file import ClusterDescription  # noqa: PLC0415 (the same)

    return ClusterDescription.read(Path(cluster)).servers


def _check_key(server: int, key: str, servers: dict[int, ServerEntry]) -> None:
    """Refuse another's key: the members know each other's by their files, not by the log."""
    for entry in servers.values():
        if key and entry.public_key == key and entry.id != server:
            raise typer.BadParameter(f"that is server {entry.id}'s", param_hint="--public-key")


def _client_for(
    given: dict[str, Any], cluster: str, key_file: str | None, timeout: float
) -> Client:
    """A client of the cluster that may ask the new server, too, by its key."""
    from paxon.actors.members import Member  # noqa: PLC0415 (keeps other commands quick)
    from paxon.kvstore.client.client import Client  # noqa: PLC0415 (the same)

    target = find_target(cluster, key_file)
    if target.secure is not None and given["key"] and given["client"]:
        from paxon.kvstore.client.keys import Keyring  # noqa: PLC0415 (the same)

        assert isinstance(target.secure, Keyring)
        target.secure.trust((Member(0, 0, client=given["client"], key=given["key"]),))
    return Client(list(target.addresses.values()), timeout=timeout, secure=target.secure)


def promote(
    server: _Server,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Give a learner its vote.

    Example: paxon member promote 4
    """
    _change("promote", [server], cluster, key_file, timeout, as_json=as_json)


def demote(
    server: _Server,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Take a voter's vote: it goes on as a learner.

    Example: paxon member demote 4
    """
    _change("demote", [server], cluster, key_file, timeout, as_json=as_json)


def remove(
    servers: Annotated[
        list[int],
        typer.Argument(
            metavar="ID …", help="The servers' ids; all go at once.", show_default=False
        ),
    ],
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Take servers out of the cluster; once this returns they may be switched off.

    Their directories never come back: a server that is to return starts on an empty one.

    Examples: paxon member remove 3 | paxon member remove 4 5
    """
    _change("remove", servers, cluster, key_file, timeout, as_json=as_json)


def move(
    server: _Server,
    *,
    peer: _Peer = "",
    client: _Client = "",
    public_key: _PublicKey = "",
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: _Timeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Write down another address or key of a member.

    Addresses are found without that (docs/design/addresses.md). With a new key restart the server
    at once.

    Example: paxon member move 2 --peer tcp://10.0.0.9:7120 --client tcp://10.0.0.9:7121
    """
    from paxon.actors.members import MemberChange  # noqa: PLC0415 (keeps other commands quick)

    _check_key(server, public_key, _described_in(cluster))
    change = MemberChange("move", server, peer=peer, client=client, key=public_key)
    _make(change, cluster=cluster, key_file=key_file, timeout=timeout, as_json=as_json)


def _change(
    kind: str, servers: list[int], cluster: str, key_file: str | None, timeout: float,
    *, as_json: bool,
) -> None:  # fmt: skip
    from paxon.actors.members import MemberChange  # noqa: PLC0415 (the same)

    changes = [MemberChange(kind, server) for server in servers]  # type: ignore[arg-type]
    _make(*changes, cluster=cluster, key_file=key_file, timeout=timeout, as_json=as_json)


def _make(
    *changes: MemberChange, cluster: str, key_file: str | None, timeout: float, as_json: bool
) -> None:
    with waiting(_UNTOUCHED) as tell, open_client(cluster, key_file, timeout) as kv:
        found = kv.change_members(*changes, tell=tell)
    _show(found, as_json=as_json)


def _show(found: Members, *, as_json: bool) -> None:
    if as_json:
        described = {
            "cluster": found.cluster,
            "epoch": found.epoch,
            "leader": found.leader,
            "members": [_described(each, found) for each in found.members],
            "joining": [_described(each, found) for each in found.joining],
        }
        sys.stdout.write(json.dumps(described) + "\n")
        return
    for each in found.members:
        part = "leader" if each.server == found.leader else "voter" if each.voter else "learner"
        behind = found.behind.get(each.server, 0)
        late = f"  {behind} slot{'s' * (behind > 1)} behind" if behind else ""
        sys.stdout.write(f"{each.server:3}  {part:7}  {each.peer}  {each.client}{late}\n")
    for each in found.joining:
        sys.stdout.write(f"{each.server:3}  waits    {each.peer}  {each.client}  (no member)\n")
    sys.stdout.write(f"epoch {found.epoch}\n")


def _described(each: Member, found: Members) -> dict[str, object]:
    return {
        "id": each.server,
        "voter": each.voter,
        "incarnation": each.incarnation,
        "peer": each.peer,
        "client": each.client,
        "public_key": each.key,
        "behind": found.behind.get(each.server),
    }


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    member.command("list")(list_members)
    for command in (add, promote, demote, remove, replace, move):
        member.command()(command)
    app.add_typer(member, name="member", rich_help_panel="Clusters")
