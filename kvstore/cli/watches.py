"""`paxon watch`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    as_line,
    as_typed,
    open_client,
    print_json,
    typed_bytes,
    value_as_json,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

if TYPE_CHECKING:
    from paxon.kvstore.client.watches.events import Event

__all__ = ["add_commands"]

_TIMEOUT = 10.0


def watch(
    key: Annotated[
        str,
        typer.Argument(help="The key, or with --prefix the beginning of keys.", callback=as_typed),
    ],
    *,
    prefix: Annotated[
        bool, typer.Option("--prefix", "-p", help="All keys that begin with KEY ('' for all).")
    ] = False,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, help="Begin after this revision; by default now."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many events.")
    ] = None,
    puts: Annotated[bool, typer.Option(help="Print writes.")] = True,
    deletes: Annotated[bool, typer.Option(help="Print deletions.")] = True,
    previous: Annotated[
        bool, typer.Option("--previous", help="Print the previous value too.")
    ] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            "-t",
            envvar="PAXON_TIMEOUT",
            min=0.001,
            help="Give up if at first no server answers for this many seconds.",
        ),
    ] = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Print what happens to a key, or to all keys with a prefix, until Ctrl-C; a line for each.

    Revision, put or delete, key, value; with --previous also what it was before. It goes on
    whatever happens to servers, and prints each event once.

    Example: paxon watch --prefix jobs/ --after 1200 --json
    """
    with (
        open_client(cluster, key_file, timeout) as store,
        store.watch(
            None if prefix else key,
            prefix=key if prefix else None,
            after=after,
            puts=puts,
            deletes=deletes,
            previous=previous,
        ) as events,
    ):
        if after is not None:  # (else one has answered, with the revision to begin after)
            store.scan(limit=1, mode="stale")
        for number, event in enumerate(events, 1):
            if as_json:
                print_json(_as_json(event, previous))
            else:
                sys.stdout.write("\t".join(_words(event, previous)) + "\n")
            sys.stdout.flush()  # whoever reads it is to know at once
            if number == count:
                return


def _words(event: Event, previous: bool) -> list[str]:
    words = [str(event.revision), event.kind, as_line(typed_bytes(event.key)), as_line(event.value)]
    return [*words, as_line(event.previous or b"")] if previous else words


def _as_json(event: Event, previous: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "event": event.kind,
        "key": value_as_json(typed_bytes(event.key)),
        "value": value_as_json(event.value) if event.kind == "put" else None,
        "revision": event.revision,
        "created": event.created,
        "version": event.version,
        "lease": f"{event.lease:x}" if event.lease else None,
    }
    return shown | {"previous": value_as_json(event.previous)} if previous else shown


def add_commands(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command(rich_help_panel="The store")(watch)
