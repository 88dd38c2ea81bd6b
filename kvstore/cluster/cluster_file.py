"""The cluster file: all servers of a cluster, in TOML (docs/running/local-cluster.md).

[cluster]
id = "orders"                 # servers of another cluster are refused
durability = "disk"           # and any field of Settings, such as heartbeat_interval = 0.05

[[server]]
id = 1
host = "10.0.0.1"             # 127.0.0.1 if left out
peer_port = 7110              # 7100 + 10·id if left out
client_port = 7111            # 7101 + 10·id if left out
directory = "/var/lib/paxon"  # server-1 beside this file if left out
metrics = "9100"              # PORT or HOST:PORT for /metrics and /health; none if left out
# instead of host and ports: peer = "tcp://…", client = "tcp://…"; where a server listens on
# another address than the others dial: peer_bind = "tcp://*:7110", client_bind = "tcp://*:7111"
"""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from paxon.actors import ServerId, Settings, SettingsError
from paxon.actors.disk.sqlite_format import held_in
from paxon.actors.members import Member
from paxon.kvstore.client.addresses import (
    DEFAULT_BASE_PORT,
    LOOPBACK,
    check_address,
    check_dialled,
    client_port,
    peer_port,
    with_port,
)
from paxon.kvstore.cluster.options import (
    Durability,
    OptionError,
    check_option,
    closest,
    from_environment,
    option_names,
    parse_listen,
)
from paxon.kvstore.errors import PaxonError
from paxon.transport import (
    CurveKeys,
    TransportError,
    check_key,
    cluster_name,
    read_text,
    same_place,
)

if TYPE_CHECKING:
    from paxon.kvstore.client.links import Secure

__all__ = [
    "ClusterDescription",
    "ClusterFileError",
    "JoinError",
    "ServerEntry",
    "ServerPlan",
    "cluster_to_join",
]

STORE_MACHINE = "paxon.kvstore.store.store:KVStore"
"""What servers replicate unless told otherwise, as module:class."""

_QUICK = 2.0
"""Seconds to ask the others for, where a directory knows them by itself."""

_PORT_KEYS = ("host", "peer_port", "client_port")
_ADDRESS_KEYS = ("peer", "client", "peer_bind", "client_bind")
_SERVER_KEYS = ("id", "directory", "metrics", "public_key", "key_file", *_PORT_KEYS, *_ADDRESS_KEYS)


class ClusterFileError(ValueError):
    """A cluster file cannot be used; the text names the file and says what to change."""


class JoinError(PaxonError):
    """A server cannot join a cluster; the text is one sentence that says why and what to do."""


class ServerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a cluster: where it listens and where it keeps its data."""

    id: ServerId
    peer: str
    """Where the other servers reach it."""
    client: str
    """Where clients reach it."""
    peer_bind: str
    client_bind: str
    directory: str
    """Its data directory, absolute."""
    metrics: str = ""
    """Where it shows figures and health by HTTP, PORT or HOST:PORT; "": nowhere."""
    public_key: str = ""
    """Its CURVE key; "" if connections are not encrypted."""
    key_file: str = ""
    """Where its key pair is on its own host, absolute; "" without a public key."""


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the process of one server has to know."""

    settings: Settings
    entry: ServerEntry
    peers: dict[ServerId, str]
    """Where to reach each server, this one included."""
    durability: Durability = "disk"
    machine: str = STORE_MACHINE
    """The replicated state machine, as module:class."""
    public_keys: dict[ServerId, str] = {}
    """Each server's CURVE key; empty if connections are not encrypted."""
    client_keys: list[str] | None = None
    """The only clients that are let in, by public key; None: any."""

    def showing_at(self, metrics: str) -> ServerPlan:
        """The same plan with another place for figures and health. Raises `OptionError`."""
        parse_listen(metrics)
        return msgspec.structs.replace(
            self, entry=msgspec.structs.replace(self.entry, metrics=metrics)
        )

    def moved_to(self, directory: Path) -> ServerPlan:
        """The same plan with another data directory."""
        entry = msgspec.structs.replace(self.entry, directory=str(directory.absolute()))
        return msgspec.structs.replace(self, entry=entry)


class ClusterDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cluster, as read from a file or made by `LocalCluster`."""

    id: str
    servers: dict[ServerId, ServerEntry]
    options: dict[str, object] = {}
    client_keys: list[str] | None = None
    """The only clients that are let in, by public key; None: any."""
    source: str = "cluster"
    """The file's name, for messages."""

    @property
    def client_addresses(self) -> dict[ServerId, str]:
        """Where clients reach each server."""
        return {server.id: server.client for server in self.servers.values()}

    @property
    def public_keys(self) -> dict[ServerId, str]:
        """Each server's CURVE key; empty if connections are not encrypted."""
        return {entry.id: entry.public_key for entry in self.servers.values() if entry.public_key}

    def entry(self, server: ServerId) -> ServerEntry:
        """The file's entry for a server. Raises `ClusterFileError`."""
        if server not in self.servers:
            ids = ", ".join(str(known) for known in self.servers)
            raise ClusterFileError(f"{self.source}: there is no server {server}; its ids are {ids}")
        return self.servers[server]

    def plan(
        self,
        server: ServerId,
        flags: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        machine: str = STORE_MACHINE,
        *,
        join: bool = False,
    ) -> ServerPlan:
        """The plan of server `server`: flags go before environment, file and default.

        With `join` it is to become a member of the cluster of the other servers.

        Raises `ClusterFileError` if there is no such server, `OptionError` or `SettingsError` if an
        option is wrong.
        """
        entry = self.entry(server)
        given = self.options | from_environment(environment or {}) | dict(flags or {})
        options = {name: check_option(name, value) for name, value in given.items()}
        durability = cast("Durability", options.pop("durability", "disk"))
        derived: dict[str, Any] = {
            "cluster": self.id,
            "server": server,
            "servers": tuple(sorted(self.servers)),
            "client_addresses": self.client_addresses,
            "join": join,
        }
        return ServerPlan(
            settings=Settings(**derived, **cast("dict[str, Any]", options)),
            entry=entry,
            peers={entry.id: entry.peer for entry in self.servers.values()},
            durability=durability,
            machine=machine,
            public_keys=self.public_keys,
            client_keys=self.client_keys,
        )

    def joining(self, server: ServerId, name: str, members: Iterable[Member]) -> ClusterDescription:
        """The cluster as its own servers tell it, with this file's server `server` besides.

        What the file says of others counts for nothing but their keys. Raises `ClusterFileError`
        if it is of another cluster.
        """
        if name != self.id:
            raise ClusterFileError(
                f"{self.source}: the file is of cluster {self.id!r}, and the servers to join are "
                f"those of {name!r}: correct the file, or the addresses"
            )
        servers = {server: self.servers[server]} if server in self.servers else {}
        for member in members:
            if member.server != server and member.peer and member.client:
                known = self.public_keys.get(member.server, "")
                servers[member.server] = ServerEntry(
                    id=member.server, peer=member.peer, client=member.client,
                    peer_bind=member.peer, client_bind=member.client, directory="",
                    public_key=member.key or known,
                )  # fmt: skip
        return replace(self, servers=dict(sorted(servers.items())))

    @classmethod
    def read(cls, path: Path) -> ClusterDescription:
        """Read and check a cluster file. Raises `ClusterFileError` with one sentence."""
        try:
            document = tomllib.loads(read_text(path))
        except FileNotFoundError:
            raise ClusterFileError(f"{path}: there is no such cluster file") from None
        except OSError as error:
            raise ClusterFileError(
                f"{path}: the cluster file cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ClusterFileError(f"{path}: the cluster file is not UTF-8 text") from None
        except (ValueError, RecursionError) as error:  # (a number of 4,301 digits, for one)
            raise ClusterFileError(f"{path}: the cluster file is not TOML: {error}") from None
        try:
            return _describe(document, path)
        except (OptionError, SettingsError, ClusterFileError) as error:
            raise ClusterFileError(f"{path}: {error}") from None

    def with_keys(self) -> ClusterDescription:
        """The same with a CURVE key pair for each server, in a file beside its data directory.

        A pair that is there is kept. Raises `TransportError` if it cannot be used or made.
        """
        servers: dict[ServerId, ServerEntry] = {}
        for entry in self.servers.values():
            path = Path(entry.directory).with_suffix(".key")
            public = CurveKeys.load_or_generate(path).public
            servers[entry.id] = replace(entry, public_key=public, key_file=str(path))
        return replace(self, servers=servers)

    def secure(self, keys: CurveKeys | None = None) -> Secure | None:
        """A value for a client's `secure`, for these servers' keys; None if there are none."""
        if not self.public_keys:
            return None
        from paxon.kvstore.client.keys import secure_with  # noqa: PLC0415 (rarely needed)

        server_keys: dict[str | int, str] = {}
        for server, key in self.public_keys.items():
            server_keys[server] = server_keys[self.client_addresses[server]] = key
        return secure_with(server_keys, keys)

    def to_toml(self) -> str:
        """This cluster as the text of a cluster file."""
        lines = ["[cluster]", f"id = {_toml(self.id)}"]
        lines += [f"{name} = {_toml(value)}" for name, value in self.options.items()]
        if self.client_keys is not None:
            lines.append(f"client_keys = {_toml(self.client_keys)}")
        for server in self.servers.values():
            given = {name: value for name, value in msgspec.to_builtins(server).items() if value}
            lines += ["", "[[server]]"]
            lines += [f"{name} = {_toml(value)}" for name, value in given.items()]
        return "\n".join(lines) + "\n"


def cluster_to_join(
    addresses: Sequence[str], directory: Path, secure: Secure | None, timeout: float = 10.0
) -> tuple[str, Sequence[Member]]:
    """Which cluster is at these client addresses, by name, and who its members are.

    A directory that belongs to a cluster already knows its members itself where nobody answers.
    Raises `JoinError`.
    """
    from paxon.kvstore.client.client import CommandClient  # noqa: PLC0415 (rarely needed)

    held = held_in(directory)
    try:
        with CommandClient(addresses, secure=secure) as client:
            found = client.cluster_members(stale=True, timeout=_QUICK if held else timeout)
    except PaxonError as error:
        if held is None:
            raise JoinError(f"the cluster to join was not found: {error}") from None
        return held.made.name, [
            Member(place.server, place.incarnation, peer=place.peer, client=place.client)
            for place in held.places
        ]
    if held is not None and held.made.identity != found.identity:
        raise JoinError(
            f"the directory {directory} belongs to "
            f"{cluster_name(held.made.identity, held.made.name)}, and the servers to join are "
            f"those of {cluster_name(found.identity, found.cluster)}: use an empty directory, or "
            "correct the addresses"
        )
    return found.cluster, found.members


def _toml(value: object) -> str:
    """A TOML literal; JSON's forms of text, numbers, booleans and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=True)


def _describe(document: dict[str, Any], path: Path) -> ClusterDescription:
    _known_keys(document, ("cluster", "server"), "top level")
    cluster = document.get("cluster")
    if not isinstance(cluster, dict):
        raise ClusterFileError("a table [cluster] with an id is needed")
    cluster = dict(cluster)
    cluster_id = cluster.pop("id", None)
    if not isinstance(cluster_id, str) or not cluster_id:
        raise ClusterFileError('[cluster] needs an id, such as id = "orders"')
    client_keys = _client_keys(cluster.pop("client_keys", None))
    _known_keys(cluster, (*option_names(), "client_keys"), "[cluster]")
    if "rejoin" in cluster:
        raise ClusterFileError(
            "[cluster] rejoin is for one start of one server: use `paxon server --rejoin`"
        )
    entries = document.get("server")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ClusterFileError("at least one table [[server]] is needed")
    options = {name: check_option(name, value) for name, value in cluster.items()}
    servers = [_entry(entry, position, path) for position, entry in enumerate(entries, start=1)]
    _no_twins(servers)
    _keys_for_all_or_none(servers, client_keys)
    description = ClusterDescription(
        id=cluster_id,
        servers={server.id: server for server in sorted(servers, key=lambda server: server.id)},
        options=options,
        client_keys=client_keys,
        source=str(path),
    )
    description.plan(servers[0].id)  # so that an option out of range is found for all servers alike
    return description


def _known_keys(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise ClusterFileError(f"{where}: unknown key '{key}'{closest(key, known)}")


def _entry(table: dict[str, Any], position: int, path: Path) -> ServerEntry:
    server = table.get("id")
    if server is None:
        raise ClusterFileError(f"[[server]] number {position} has no id")
    if not isinstance(server, int) or isinstance(server, bool) or server < 1:
        raise ClusterFileError(
            f"[[server]] number {position}: id = {server!r}: must be a whole number from 1"
        )
    where = f"server {server}"
    _known_keys(table, _SERVER_KEYS, where)
    for port in ("peer", "client"):
        if port in table and f"{port}_port" in table:
            raise ClusterFileError(f"{where}: give either {port} or {port}_port, not both")
    host = _text(table, "host", where) or LOOPBACK
    peer = _text(table, "peer", where) or _from_port(
        host, table.get("peer_port", peer_port(DEFAULT_BASE_PORT, server)), f"{where}: peer_port"
    )
    client = _text(table, "client", where) or _from_port(
        host,
        table.get("client_port", client_port(DEFAULT_BASE_PORT, server)),
        f"{where}: client_port",
    )
    addresses = {
        "peer": peer,
        "client": client,
        "peer_bind": _text(table, "peer_bind", where) or peer,
        "client_bind": _text(table, "client_bind", where) or client,
    }
    for key, address in addresses.items():
        try:
            (check_address if key.endswith("_bind") else check_dialled)(address)
        except ValueError as error:
            raise ClusterFileError(f"{where}: {key}: {error}") from None
    metrics = table.get("metrics", "")
    metrics = str(metrics) if type(metrics) is int else _text(table, "metrics", where) or ""
    if metrics:
        try:
            parse_listen(metrics)
        except OptionError as error:
            raise ClusterFileError(f"{where}: {error}") from None
    directory = _path(table, "directory", f"server-{server}", where, path)
    public_key = _text(table, "public_key", where) or ""
    key_file = _path(table, "key_file", f"server-{server}.key", where, path)
    if public_key:
        _check_key(public_key, f"{where}: public_key")
    elif "key_file" in table:
        raise ClusterFileError(f"{where}: key_file: needs its public_key, too (paxon keygen)")
    return ServerEntry(
        id=server,
        directory=directory,
        metrics=metrics,
        public_key=public_key,
        key_file=key_file if public_key else "",
        **addresses,
    )


def _check_key(key: object, where: str) -> None:
    try:
        check_key(key)
    except TransportError as error:
        raise ClusterFileError(f"{where}: {error}") from None


def _client_keys(given: object) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise ClusterFileError(f"[cluster] client_keys = {given!r}: must be a list of public keys")
    for key in given:
        _check_key(key, "[cluster] client_keys")
    return given


def _keys_for_all_or_none(servers: list[ServerEntry], client_keys: list[str] | None) -> None:
    """A server without a key could not be reached, or would let in everybody."""
    owners: dict[str, ServerId] = {}
    for server in servers:
        if server.public_key and owners.setdefault(server.public_key, server.id) != server.id:
            raise ClusterFileError(
                f"servers {owners[server.public_key]} and {server.id} have the same public_key: "
                "make a pair for each"
            )
    without = [server.id for server in servers if not server.public_key]
    if without and len(without) < len(servers):
        raise ClusterFileError(
            f"server {without[0]} has no public_key: give one to every server, or to none"
        )
    if without and client_keys is not None:
        raise ClusterFileError("[cluster] client_keys: every server needs a public_key, too")


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ClusterFileError(f"{where}: {key} = {value!r}: must be text, and not empty")
    return value


def _path(table: Mapping[str, Any], key: str, default: str, where: str, file: Path) -> str:
    """An absolute path; a relative one begins beside the file."""
    given = _text(table, key, where) or default
    try:
        if "\0" in given:
            raise RuntimeError("a null character is in its name")
        return os.path.normpath(file.absolute().parent / Path(given).expanduser())
    except RuntimeError as error:  # ~ of a user that is not known
        raise ClusterFileError(f"{where}: {key} = {given!r}: {error}") from None


def _from_port(host: str, port: object, where: str) -> str:
    if not isinstance(port, int) or isinstance(port, bool):
        raise ClusterFileError(f"{where} = {port!r}: must be a whole number")
    try:
        return with_port(host, port)
    except ValueError as error:
        raise ClusterFileError(f"{where}: {error}") from None


def _no_twins(servers: list[ServerEntry]) -> None:
    """No id, address or directory may occur twice."""
    for number, times in Counter(server.id for server in servers).items():
        if times > 1:
            raise ClusterFileError(f"the server id {number} occurs {times} times; ids are unique")
    used: dict[str, str] = {}
    for server in servers:
        places = {"peer": server.peer_bind, "client": server.client_bind}
        if server.peer != server.peer_bind:
            places["peer (as dialled)"] = server.peer
        if server.client != server.client_bind:
            places["client (as dialled)"] = server.client
        local = {server.peer_bind, server.client_bind} - {server.peer, server.client}
        host = server.peer.rpartition(":")[0]
        at, port = parse_listen(server.metrics or "0")
        if port:
            places["metrics"] = f"tcp://[{at}]:{port}" if ":" in at else f"tcp://{at or '*'}:{port}"
            local |= {places["metrics"]} - {f"{host}:{port}"}
        for what, address in places.items():
            # Two hosts may both listen on tcp://*:7110.
            place = same_place(address)
            if place.startswith("tcp://*:"):
                place = f"{server.id} {place}"
            elif address in local:  # behind address translation it means this host's alone
                place = f"{host} {place}"
            owner = f"server {server.id} ({what})"
            if place in used:
                raise ClusterFileError(f"{address} is given to {used[place]} and to {owner}")
            used[place] = owner
    directories: dict[str, ServerId] = {}
    for server in servers:
        # Servers on different hosts often have the same path.
        host = server.peer.rpartition(":")[0]
        place = f"{host} {server.directory}"
        if place in directories:
            raise ClusterFileError(
                f"servers {directories[place]} and {server.id} share the directory "
                f"{server.directory}"
            )
        directories[place] = server.id
