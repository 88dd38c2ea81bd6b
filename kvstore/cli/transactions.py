"""`paxon txn` and `paxon compact`."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paxon.kvstore.cli.exit_codes import NOT_AS_EXPECTED
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    TimeoutOption,
    entry_as_json,
    fail,
    line_of,
    print_json,
    value_as_json,
    value_of,
    writing,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from paxon.kvstore.client.calls.answers import RangeResult, TxnResult
    from paxon.kvstore.client.calls.calls import TxnOperation
    from paxon.kvstore.client.calls.conditions import Compared, Condition

__all__ = ["add_commands"]

_PANEL = "The store"
_TIMEOUT = 10.0
_SHOWN = 200
"""So many characters of what is wrong are quoted at most."""
_CONDITION = (
    "TARGET [prefix] KEY =|!=|<|> WHAT, TARGET one of value, version, created, modified, lease"
)
_OPERATION = "put KEY VALUE, get KEY, delete [prefix] KEY, range [prefix] KEY"


def _shown(text: str) -> str:
    """As `--help` shows it: typer would take what is in brackets for markup, and leave it out."""
    return text.replace("[", r"\[")


def txn(
    *,
    if_: Annotated[
        list[str] | None,
        typer.Option("--if", metavar="CONDITION", help=_shown(f"All hold: {_CONDITION}.")),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(
            "--then", metavar="OPERATION", help=_shown(f"Then: {_OPERATION}; - reads stdin.")
        ),
    ] = None,
    else_: Annotated[
        list[str] | None, typer.Option("--else", metavar="OPERATION", help="Else: the same.")
    ] = None,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Do all of --then if all --if hold, all of --else if not; in one revision.

    Words are quoted as in a shell; one value may be -, which reads stdin. Exit
    code 4 if the conditions did not hold.

    Examples: paxon txn --if 'modified motto = 7' --then 'put motto "more quorums"'
    --else 'get motto' | paxon txn --then 'put photo -' < photo.jpg
    """
    if not (if_ or then or else_):  # etcdctl's is written to stdin, and would be ignored here
        raise typer.BadParameter("give at least one --if, --then or --else")
    from_stdin = [text for text in (*(if_ or ()), *(then or ()), *(else_ or ())) if _reads(text)]
    if len(from_stdin) > 1:
        raise typer.BadParameter("stdin can be only one of the values")
    conditions = [_condition(text) for text in if_ or ()]
    then_operations = [_operation(text) for text in then or ()]
    else_operations = [_operation(text) for text in else_ or ()]
    with writing(cluster, key_file, timeout) as store:
        done = store.txn(conditions, then_operations, else_operations)
    if as_json:
        print_json(_as_json(done))
    else:
        _print(done)
    if not done.succeeded:
        raise fail("the conditions did not hold", NOT_AS_EXPECTED)


def compact(
    revision: Annotated[int, typer.Argument(min=0, help="The oldest revision to keep.")],
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Forget the history before a revision; it could be read with --revision until then.

    Example: paxon compact 1200
    """
    with writing(cluster, key_file, timeout) as store:
        oldest = store.compact(revision)
    if as_json:
        print_json({"oldest": oldest})


def _words(text: str, what: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _misread(text, str(error), what) from None
    if not words:
        raise _misread(text, "it is empty", what)
    return words


def _reads(text: str) -> bool:
    """Whether its value is to come from stdin."""
    words = _words(text, f"{_CONDITION}, or {_OPERATION}")
    return words[-1] == "-" and len(words) > 2 and words[0] in {"put", "value"}


def _misread(text: str, why: str, what: str) -> typer.BadParameter:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return typer.BadParameter(f"{shown!r}: {why}; write {what}")


def _condition(text: str) -> Condition:
    from paxon.kvstore.client.calls.comparing import Comparing  # noqa: PLC0415 (after the arguments)

    target, *rest = _words(text, _CONDITION)
    operands: dict[str, Callable[..., Compared]] = {
        "value": Comparing.value, "version": Comparing.version, "created": Comparing.created,
        "modified": Comparing.modified, "lease": Comparing.lease_of,
    }  # fmt: skip
    by_prefix = len(rest) == 4 and rest[0] == "prefix"
    if target not in operands or len(rest) != 3 + by_prefix:
        raise _misread(text, "that is no condition", _CONDITION)
    key, relation, what = rest[-3:]
    named = operands[target](prefix=_key(key)) if by_prefix else operands[target](_key(key))
    operand: Any = value_of(what)
    if target != "value":
        try:
            operand = int(what, 16 if target == "lease" else 10)
        except ValueError:
            raise _misread(text, f"{what!r} is no number", _CONDITION) from None
    conditions: dict[str, Condition] = {
        "=": named == operand, "!=": named != operand, "<": named < operand, ">": named > operand
    }  # fmt: skip
    if relation in conditions:
        return conditions[relation]
    raise _misread(text, f"{relation!r} compares nothing", _CONDITION)


def _key(word: str) -> bytes:
    return os.fsencode(word)


def _operation(text: str) -> TxnOperation:
    from paxon.kvstore.client.calls.calls import Delete, Get, Put, Range  # noqa: PLC0415

    match _words(text, _OPERATION):
        case ["put", key, value]:
            return Put(_key(key), value_of(value))
        case ["get", key]:
            return Get(_key(key))
        case ["delete", key]:
            return Delete(_key(key))
        case ["delete", "prefix", key]:
            return Delete(prefix=_key(key))
        case ["range", key]:
            return Range(_key(key))
        case ["range", "prefix", key]:
            return Range(prefix=_key(key))
        case _:
            raise _misread(text, "that is no operation", _OPERATION)


def _as_json(done: TxnResult) -> dict[str, object]:
    results: list[object] = []
    for result in done.results:
        if isinstance(result, bytes | None):
            results.append({"value": value_as_json(result)})
        elif isinstance(result, int):
            results.append(result)
        else:
            found: RangeResult = result
            results.append({"count": found.count, "entries": list(map(entry_as_json, found))})
    return {"succeeded": done.succeeded, "revision": done.revision, "results": results}


def _print(done: TxnResult) -> None:
    """The lines on what was read; gets bring their value, ranges lines as scan."""
    for result in done.results:
        if isinstance(result, bytes | None):
            shown = "(missing)" if result is None else result.decode("utf-8", "backslashreplace")
            sys.stdout.write(shown + "\n")
        elif not isinstance(result, int):
            sys.stdout.writelines(line_of(entry) + "\n" for entry in result)


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (txn, compact):
        app.command(rich_help_panel=_PANEL)(command)
