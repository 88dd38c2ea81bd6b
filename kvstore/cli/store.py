"""`paxon get`, `put`, `append`, `delete`, `cas`, `scan`: the store from a shell.

Keys and values are bytes: an argument is taken as the shell passed it, for a value `-` reads stdin,
and what is printed is exactly the value. In JSON either is a string if it is UTF-8 text, else an
object `{"base64": "…"}`.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand

from paxon.kvstore.cli.exit_codes import NO_SUCH_KEY, NOT_AS_EXPECTED
from paxon.kvstore.cli.outlet import waiting
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS
from paxon.kvstore.errors import LeaseExpired

if TYPE_CHECKING:
    from paxon.kvstore.client.calls.answers import Entry
    from paxon.kvstore.client.client import Client
    from paxon.kvstore.client.links import Secure
    from paxon.kvstore.cluster.cluster_file import ClusterDescription

__all__ = [
    "add_commands",
    "ClusterOption",
    "KeyOption",
    "TimeoutOption",
    "JsonOption",
    "START_ONE",
    "Target",
    "WithAdvice",
    "as_line",
    "as_typed",
    "entry_as_json",
    "fail",
    "find_target",
    "lease_number",
    "line_of",
    "open_client",
    "print_json",
    "real",
    "typed_bytes",
    "value_as_json",
    "value_of",
    "writing",
]

_PANEL = "The store"

ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        envvar=["PAXON_CLUSTER", "PAXON_CLUSTER_FILE"],
        metavar="ADDR[,ADDR…]",
        help="Client addresses of the servers, or a cluster file (*.toml).",
        show_default="those of paxon up",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="PAXON_KEY",
        metavar="FILE",
        help="This client's key pair, for a cluster file with keys; by default one is made up.",
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


class WithAdvice(TyperCommand):
    """Says what to do about words that the command was not meant to take for options or more.

    (Contexts and errors are typer's or click's, as the version has it.)
    """

    advice: ClassVar[str] = "quote what has spaces, and put -- before what begins with -"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as wrong:
            said = getattr(wrong, "message", None) or ""
            if said.startswith(("No such option", "Got unexpected")) and "--" not in args:
                wrong.message = f"{said}: {self.advice}"  # type: ignore[attr-defined] # it has one
            raise


def real(number: float) -> float:
    """Refuse nan, which is within all bounds of an option."""
    if math.isnan(number):
        raise typer.BadParameter("nan is no number")
    return number


def as_typed(text: str) -> str:
    """A key's text is UTF-8, whatever locale Python has read the arguments in (C, for one)."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


_Key = Annotated[
    str,
    typer.Argument(help="The key, text of at most 4 KiB.", show_default=False, callback=as_typed),
]
_Value = Annotated[
    str, typer.Argument(help="The value; - reads it from stdin.", show_default=False)
]
START_ONE = "`paxon up` starts a cluster there, --cluster names another"
"""What to do if nobody answers at the default addresses."""
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
    """The addresses and keys that `--cluster` and `--key` name.

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

    from paxon.transport import CurveKeys  # noqa: PLC0415

    if not description.public_keys:
        raise typer.BadParameter(_NO_SERVER_KEYS, param_hint="--key")
    secure = description.secure(CurveKeys.load(Path(key_file)) if key_file else None)
    assert secure is not None
    return secure


def open_client(cluster: str, key_file: str | None, timeout: float) -> Client:
    """A client of the servers that `--cluster` and `--key` name."""
    target = find_target(cluster, key_file)
    from paxon.kvstore.client.client import Client  # noqa: PLC0415 (after the arguments are known good)

    return Client(list(target.addresses.values()), timeout=timeout, secure=target.secure)


@contextmanager
def writing(cluster: str, key_file: str | None, timeout: float) -> Iterator[Client]:
    """The same, to write: whoever ends us by a signal is told what that leaves open."""
    stands = "the write may have taken effect, or may yet"
    with waiting(stands), open_client(cluster, key_file, timeout) as client:
        yield client


def lease_number(lease: str) -> int:
    """A lease's id as it is printed. Raises typer.BadParameter."""
    try:
        number = int(lease, 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 63:
        raise typer.BadParameter(f"{lease!r} is no id of a lease: write it as grant prints it")
    return number


def typed_bytes(key: str) -> bytes:
    """The bytes of a key, as `as_typed` and clients write it."""
    return key.encode("utf-8", "surrogateescape")


def value_of(argument: str) -> bytes:
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


def value_as_json(value: bytes | None) -> object:
    """A value or key in JSON."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def entry_as_json(entry: Entry) -> dict[str, object]:
    """A key with all that belongs to it, in JSON."""
    return {
        "key": value_as_json(typed_bytes(entry.key)),
        "value": value_as_json(entry.value),
        "created": entry.created,
        "modified": entry.modified,
        "version": entry.version,
        "lease": f"{entry.lease:x}" if entry.lease else None,
    }


def print_json(what: object) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(json.dumps(what, ensure_ascii=False) + "\n")


def fail(sentence: str, code: int) -> typer.Exit:
    """Say what is wrong; the exit to raise."""
    sys.stderr.write(f"paxon: {sentence}\n")
    return typer.Exit(code)


_Revision = Annotated[
    int,
    typer.Option(
        "--revision", "-r", min=0, help="Read the value as of this revision; 0: as it is now."
    ),
]


def get(
    key: _Key,
    *,
    prefix: Annotated[
        bool,
        typer.Option("--prefix", help="Print all keys that begin with it, a line each, like scan."),
    ] = False,
    revision: _Revision = 0,
    detail: Annotated[
        bool, typer.Option("--detail", help="In JSON, with revisions, version and lease.")
    ] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Print the value of a key, byte for byte. Exit code 3 if there is none.

    Examples: paxon get motto | paxon get motto --revision 7 | paxon get motto --detail |
    paxon get jobs/ --prefix --json
    """
    with open_client(cluster, key_file, timeout) as store:
        if prefix:
            _print_entries(list(store.range(prefix=key, revision=revision)), detail or as_json)
            return
        entry = store.entry(key, revision=revision)
    value = None if entry is None else entry.value
    if as_json or detail:
        print_json(entry_as_json(entry) if detail and entry else value_as_json(value))
    elif value is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        if sys.stdout.isatty() and not value.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    if value is None:
        raise fail(f"no such key: {_shown(key)}", NO_SUCH_KEY)


def put(
    key: _Key,
    value: _Value,
    *,
    lease: Annotated[
        str | None,
        typer.Option("--lease", metavar="ID", help="The key goes when this lease ends."),
    ] = None,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Set the value of a key.

    Examples: paxon put motto "more quorums" | paxon put photo - < photo.jpg
    """
    number = None if lease is None else lease_number(lease)
    data = value_of(value)
    with writing(cluster, key_file, timeout) as store:
        try:
            revision = store.put(key, data, lease=number)
        except LeaseExpired as error:
            raise fail(str(error), NOT_AS_EXPECTED) from None
    if as_json:
        print_json({"ok": True, "revision": revision})


def append(
    key: _Key,
    value: _Value,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Add bytes to the end of a key's value, which is empty if there is none yet.

    Examples: paxon append journal "one line more" | date | paxon append journal -
    """
    data = value_of(value)
    with writing(cluster, key_file, timeout) as store:
        length = store.append(key, data)
    if as_json:
        print_json({"length": length})


def delete(
    key: _Key,
    *,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Delete all keys that begin with it, in one revision.")
    ] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Remove a key, or all with a prefix. Exit code 3 if there was none.

    Examples: paxon delete motto | paxon delete jobs/ --prefix
    """
    with writing(cluster, key_file, timeout) as store:
        deleted = store.delete_prefix(key) if prefix else int(store.delete(key))
    if as_json:
        print_json({"deleted": deleted if prefix else bool(deleted)})
    if not deleted:
        raise fail(f"no such key: {_shown(key)}", NO_SUCH_KEY)


def cas(
    *,
    key: _Key,
    expected_and_value: Annotated[
        list[str],
        typer.Argument(
            metavar="[EXPECTED] VALUE",
            help="The value that it must have now, and the new one; - reads either from stdin.",
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
    """Compare and set: replace the value if it is the expected one. Exit code 4 if it is not.

    Examples: paxon cas owner nobody me | paxon cas owner me --absent
    """
    wanted = 1 if absent else 2
    if len(expected_and_value) != wanted:
        raise typer.BadParameter(
            "with --absent give VALUE alone" if absent else "give EXPECTED and VALUE",
            param_hint="[EXPECTED] VALUE",
        )
    if not absent and expected_and_value == ["-", "-"]:
        raise typer.BadParameter("stdin can be only one of them", param_hint="[EXPECTED] VALUE")
    before = None if absent else value_of(expected_and_value[0])
    data = value_of(expected_and_value[-1])
    with writing(cluster, key_file, timeout) as store:
        swapped = store.compare_and_set(key, before, data)
    if as_json:
        print_json({"swapped": swapped})
    if not swapped:
        why = "exists" if absent else "is missing, or has another value than the expected one"
        raise fail(f"not changed: {_shown(key)} {why}", NOT_AS_EXPECTED)


def scan(
    prefix: Annotated[
        str, typer.Argument(help="Only keys that begin with this.", callback=as_typed)
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Print at most this many.")
    ] = 1000,
    *,
    revision: _Revision = 0,
    reverse: Annotated[bool, typer.Option("--reverse", help="Print the last ones first.")] = False,
    detail: Annotated[
        bool, typer.Option("--detail", help="In JSON, with revisions, version and lease.")
    ] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    r"""Print keys and values in the order of keys, a line each, with a tab between them.

    Control characters and bytes that are not UTF-8 are shown as in C (\n, \xff).

    Examples: paxon scan jobs/ | paxon scan --reverse -n 1 | paxon scan --revision 7 --detail
    """
    with open_client(cluster, key_file, timeout) as store:
        found = store.range(prefix=prefix, limit=limit, reverse=reverse, revision=revision)
    if as_json and not detail:
        print_json([{name: entry_as_json(entry)[name] for name in ("key", "value")}
                    for entry in found])  # fmt: skip
    else:
        _print_entries(found.entries, detail)


def _print_entries(entries: list[Entry], in_detail: bool) -> None:
    if in_detail:
        print_json(list(map(entry_as_json, entries)))
        return
    for entry in entries:
        sys.stdout.write(line_of(entry) + "\n")


def line_of(entry: Entry) -> str:
    """Key, tab, value."""
    return f"{as_line(typed_bytes(entry.key))}\t{as_line(entry.value)}"


def _shown(key: str) -> str:
    """A key in a sentence."""
    return repr(typed_bytes(key).decode("utf-8", "backslashreplace"))


def as_line(raw: bytes) -> str:
    """One line of it: what would break the line or the terminal is escaped."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (get, put, append, delete, cas, scan):
        app.command(rich_help_panel=_PANEL, cls=WithAdvice)(command)
