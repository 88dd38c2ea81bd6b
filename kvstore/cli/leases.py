"""`paxon lease`: grant, keep, revoke, list, ttl."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from paxon.kvstore.cli.exit_codes import NOT_AS_EXPECTED
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    TimeoutOption,
    as_line,
    fail,
    lease_number,
    open_client,
    print_json,
    typed_bytes,
    value_as_json,
    writing,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS
from paxon.kvstore.errors import LeaseExpired

__all__ = ["app"]

_TIMEOUT = 10.0

app = typer.Typer(
    help="Leases: the keys that are put with one go when it ends.",
    no_args_is_help=True,
)
_Id = Annotated[str, typer.Argument(metavar="ID", help="The lease's id, as grant prints it.")]


@app.command()
def grant(
    ttl: Annotated[
        float,
        typer.Argument(metavar="SECONDS", help="Seconds that it lives without being renewed."),
    ],
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Make a lease and print its id. It is not kept: see `paxon lease keep`.

    Example: id=$(paxon lease grant 60)
    """
    with writing(cluster, key_file, timeout) as client:
        lease = client.lease(ttl)
    if as_json:
        print_json({"id": f"{lease.id:x}", "ttl": lease.ttl})
    else:
        sys.stdout.write(f"{lease.id:x}\n")


@app.command()
def keep(
    lease: _Id,
    *,
    once: Annotated[bool, typer.Option("--once", help="Renew it once, then end.")] = False,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Renew a lease until Ctrl-C, at each third of its time; fails when it has ended.

    Example: paxon lease keep 1371b806266c8cd0
    """
    number, patience = lease_number(lease), timeout
    with open_client(cluster, key_file, timeout) as client:
        try:
            while True:
                ttl = client.renew(number, timeout=patience)
                if as_json:
                    print_json({"id": f"{number:x}", "ttl": ttl})
                    sys.stdout.flush()
                if once:
                    return
                time.sleep(ttl / 3)
                patience = max(timeout, ttl * 2 / 3)  # for as long as it is sure to live
        except LeaseExpired as error:
            raise fail(str(error), NOT_AS_EXPECTED) from None


@app.command()
def revoke(
    lease: _Id,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """End a lease, and all keys that go with it.

    Example: paxon lease revoke 1371b806266c8cd0
    """
    number = lease_number(lease)
    with writing(cluster, key_file, timeout) as client:
        try:
            revision = client.revoke(number)
        except LeaseExpired as error:
            raise fail(str(error), NOT_AS_EXPECTED) from None
    if as_json:
        print_json({"id": f"{number:x}", "revision": revision})


@app.command(name="list")
def list_(
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Print the ids of all leases.

    Example: paxon lease list --json
    """
    with open_client(cluster, key_file, timeout) as client:
        ids = [f"{number:x}" for number in client.leases()]
    if as_json:
        print_json(ids)
    else:
        sys.stdout.writelines(number + "\n" for number in ids)


@app.command()
def ttl(
    lease: _Id,
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    timeout: TimeoutOption = _TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Say how long a lease lives on, and which keys go with it.

    Example: paxon lease ttl 1371b806266c8cd0
    """
    number = lease_number(lease)
    with open_client(cluster, key_file, timeout) as client:
        found = client.lease_info(number)
    if found is None:
        raise fail(f"there is no lease {number:x}: it has ended", NOT_AS_EXPECTED)
    raw = [typed_bytes(key) for key in found.keys]
    if as_json:
        keys = list(map(value_as_json, raw))
        print_json({"id": f"{number:x}", "ttl": found.ttl, "left": found.left, "keys": keys})
    else:
        lines = "".join(f"\n  {as_line(key)}" for key in raw)
        sys.stdout.write(f"{found.left:.1f} s left of {found.ttl:g} s{lines}\n")
