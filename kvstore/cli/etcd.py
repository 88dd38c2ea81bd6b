"""`paxon etcd`: the etcd v3 API in front of a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from paxon.kvstore.cli.outlet import Outlet
from paxon.kvstore.cli.store import ClusterOption, KeyOption, find_target
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS

__all__ = ["add_commands"]


def etcd(
    *,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key: KeyOption = None,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            "-l",
            envvar="PAXON_ETCD_LISTEN",
            metavar="HOST:PORT",
            help="Where etcd's clients find it.",
        ),
    ] = "127.0.0.1:2379",
    advertise: Annotated[
        str,
        typer.Option(
            "--advertise",
            metavar="URL",
            help="How clients are told to reach it, if not as it listens.",
        ),
    ] = "",
    certificate: Annotated[
        str,
        typer.Option("--cert-file", metavar="FILE", help="Use TLS, with this certificate (PEM)."),
    ] = "",
    certificate_key: Annotated[
        str, typer.Option("--key-file", metavar="FILE", help="The certificate's key (PEM).")
    ] = "",
    client_ca: Annotated[
        str,
        typer.Option(
            "--trusted-ca-file",
            metavar="FILE",
            help="Take only clients that show a certificate signed by one of these.",
        ),
    ] = "",
) -> None:
    """Serve the etcd v3 API in front of a cluster, until Ctrl-C. See docs/etcd.md.

    Example: paxon etcd --cluster cluster.toml --listen 127.0.0.1:2379
    """
    from paxon.kvstore.cluster.backup import saver  # noqa: PLC0415 (takes a while)
    from paxon.kvstore.cluster.logs import log_to_stderr  # noqa: PLC0415 (takes a while)
    from paxon.kvstore.etcd.process import Listening, run_gateway  # noqa: PLC0415 (takes a while)

    target = find_target(cluster, key)
    listening = Listening.at(listen, certificate, certificate_key, client_ca, advertise)

    # Serving is not to wait for a reader, neither of stdout nor of stderr.
    log_to_stderr()

    def ready(port: int) -> None:
        Outlet(1).write(f"etcd's clients are served at {listening.url(port)}\n")

    servers = list(target.addresses.values())
    save = saver(servers, target.secure)
    run_gateway(servers, target.secure, listening, ready, save)


def add_commands(app: typer.Typer) -> None:
    """Put the command in."""
    app.command("etcd", rich_help_panel="Clusters")(etcd)
