"""`paxon get`, `put`, `append`, `delete`, `cas`, `scan`: the store from a shell.

Keys are text. Values are bytes: an argument is taken as the shell passed it, `-` reads stdin, and
what is printed is exactly the value. In JSON a value is a string if it is UTF-8 text, else an
object `{"base64": "…"}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from paxon.kvstore.cli.exit_codes import NO_SUCH_KEY, NOT_AS_EXPECTED
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.kvstore.client.client import Client
    from paxon.kvstore.client.links import Secure
    from paxon.kvstore.cluster.cluster_file import ClusterDescription

__all__ = [
    "add_commands",
    "ClusterOption",
    "KeyOption",
    "TimeoutOption",
    "JsonOption",
    "Target",
    "find_target",
]

_PANEL = "The store"

ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        envvar="PAXON_CLUSTER",
        metavar="ADDR[,ADDR…]",
        help="Client addresses of the servers, or a cluster file (*.toml).",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="PAXON_KEY",
        metavar="FILE",
        help="Own key pair, for a cluster file with keys; without it one is made up.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        "-t",
        envvar="PAXON_TIMEOUT",
        min=0.001,
        help="Give up after this many seconds.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _as_typed(text: str) -> str:
    """A key's text is UTF-8, whatever locale Python has read the arguments in (C, for one)."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


_Key = Annotated[
    str,
    typer.Argument(help="The key, text of at most 4 KiB.", show_default=False, callback=_as_typed),
]
_Value = Annotated[
    str, typer.Argument(help="The value; - reads it from stdin.", show_default=False)
]
_TIMEOUT = 10.0
_LARGEST_VALUE = 8 << 20
"""Bytes, as of `paxon.kvstore.store.operations`, which takes longer to import."""
_NO_SERVER_KEYS = (
    "a key (--key or PAXON_KEY) takes a cluster file (--cluster FILE.toml) "
    "with the servers' public keys"
)


class Target(NamedTuple):
    """The servers that a command is for."""

    addresses: dict[int, str]
    """Client addresses by server id, or by 0, -1, … where ids are not known."""
    secure: Secure | None
    """Prepares sockets for encryption, where that is wanted."""


def find_target(cluster: str, key_file: str | None) -> Target:
    """What `--cluster` and `--key` name.

    Raises typer.BadParameter for addresses of a wrong form, or a key without servers' keys.
    """
    key_file = key_file or None
    if cluster.endswith(".toml"):
        from pathlib import Path  # noqa: PLC0415 (rarely needed)

        from paxon.kvstore.cluster.cluster_file import ClusterDescription  # noqa: PLC0415

        description = ClusterDescription.read(Path(cluster))
        if key_file is None and not description.public_keys:
            return Target(description.client_addresses, None)
        return Target(description.client_addresses, _secure(description, key_file))
    if key_file is not None:
        raise typer.BadParameter(_NO_SERVER_KEYS, param_hint="--key")
    from paxon.kvstore.client.addresses import split_addresses  # noqa: PLC0415

    try:
        addresses = split_addresses(cluster)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cluster") from None
    return Target({-index: address for index, address in enumerate(dict.fromkeys(addresses))}, None)


def _secure(description: ClusterDescription, key_file: str | None) -> Secure:
    from pathlib import Path  # noqa: PLC0415

    from paxon.kvstore.client.keys import secure_with  # noqa: PLC0415
    from paxon.transport import CurveKeys  # noqa: PLC0415

    if not description.public_keys:
        raise typer.BadParameter(_NO_SERVER_KEYS, param_hint="--key")
    addresses = description.client_addresses
    server_keys = {addresses[server]: key for server, key in description.public_keys.items()}
    return secure_with(server_keys, CurveKeys.load(Path(key_file)) if key_file else None)


def _client(cluster: str, key_file: str | None, timeout: float) -> Client:
    target = find_target(cluster, key_file)
    from paxon.kvstore.client.client import Client  # noqa: PLC0415 (after the arguments are known good)

    return Client(list(target.addresses.values()), timeout=timeout, secure=target.secure)


def _value(argument: str) -> bytes:
    """A value's bytes; arguments that are not UTF-8 come back as the shell passed them."""
    if argument != "-":
        return os.fsencode(argument)
    if sys.stdin.isatty():
        sys.stderr.write("paxon: reading the value from the terminal; Ctrl-D ends it\n")
    try:
        # Not all of it: it may be a device that never ends, and such a value is refused anyway.
        value: bytes = sys.stdin.buffer.read(_LARGEST_VALUE + 1)
    except OSError as error:
        raise typer.BadParameter(f"stdin cannot be read: {error.strerror}") from None
    if len(value) > _LARGEST_VALUE:
        raise typer.BadParameter(f"what stdin brings is larger than {_LARGEST_VALUE} bytes")
    return value


def _jsonable(value: bytes | None) -> object:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _print_json(what: object) -> None:
    sys.stdout.write(json.dumps(what, ensure_ascii=False) + "\n")


def _fail(sentence: str, code: int) -> typer.Exit:
    sys.stderr.write(f"paxon: {sentence}\n")
    return typer.Exit(code)


def get(
    key: _Key,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Print the value of a key, byte for byte. Exit code 3 if there is none."""
    with _client(cluster, key_file, timeout) as store:
        value = store.get(key)
    if as_json:
        _print_json(_jsonable(value))
    elif value is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        if sys.stdout.isatty() and not value.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    if value is None:
        raise _fail(f"no such key: {key!r}", NO_SUCH_KEY)


def put(
    key: _Key,
    value: _Value,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Set the value of a key."""
    data = _value(value)
    with _client(cluster, key_file, timeout) as store:
        store.put(key, data)
    if as_json:
        _print_json({"ok": True})


def append(
    key: _Key,
    value: _Value,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Add bytes to the end of a key's value, which is empty if there is none yet."""
    data = _value(value)
    with _client(cluster, key_file, timeout) as store:
        length = store.append(key, data)
    if as_json:
        _print_json({"length": length})


def delete(
    key: _Key,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Remove a key. Exit code 3 if there was none."""
    with _client(cluster, key_file, timeout) as store:
        existed = store.delete(key)
    if as_json:
        _print_json({"deleted": existed})
    if not existed:
        raise _fail(f"no such key: {key!r}", NO_SUCH_KEY)


def cas(
    *,
    key: _Key,
    expected_and_value: Annotated[
        list[str],
        typer.Argument(
            metavar="[EXPECTED] VALUE",
            help="What it must be now, and what it becomes; - reads either from stdin.",
            show_default=False,
        ),
    ],
    absent: Annotated[
        bool,
        typer.Option("--absent", help="It must not exist now: only VALUE is given."),
    ] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Compare and set: replace the value if it is the expected one. Exit code 4 if it is not."""
    wanted = 1 if absent else 2
    if len(expected_and_value) != wanted:
        raise typer.BadParameter(
            "with --absent give VALUE alone" if absent else "give EXPECTED and VALUE",
            param_hint="[EXPECTED] VALUE",
        )
    if not absent and expected_and_value == ["-", "-"]:
        raise typer.BadParameter("stdin can be only one of them", param_hint="[EXPECTED] VALUE")
    before = None if absent else _value(expected_and_value[0])
    data = _value(expected_and_value[-1])
    with _client(cluster, key_file, timeout) as store:
        swapped = store.compare_and_set(key, before, data)
    if as_json:
        _print_json({"swapped": swapped})
    if not swapped:
        why = "exists" if absent else "is missing, or has another value than the expected one"
        raise _fail(f"not changed: {key!r} {why}", NOT_AS_EXPECTED)


def scan(
    prefix: Annotated[
        str, typer.Argument(help="Keys that begin with this.", callback=_as_typed)
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 1000,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    r"""Print keys and values in the order of keys, a line each, with a tab between them.

    Control characters and bytes that are not UTF-8 are shown as in C (\n, \xff).
    """
    with _client(cluster, key_file, timeout) as store:
        found = store.scan(prefix, limit=limit)
    if as_json:
        _print_json([{"key": key, "value": _jsonable(value)} for key, value in found])
        return
    for key, value in found:
        text = value.decode("utf-8", "backslashreplace")
        sys.stdout.write(f"{_printable(key)}\t{_printable(text)}\n")


def _printable(text: str) -> str:
    """One line of it: what would break the line or the terminal is escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (get, put, append, delete, cas, scan):
        app.command(rich_help_panel=_PANEL)(command)
