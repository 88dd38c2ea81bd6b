"""The life of a gateway as a process: from `paxon etcd`, or beside a local cluster."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from paxon.kvstore.client.links import Secure
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.etcd.gateway import EtcdGateway
from paxon.kvstore.recipes.clients import AsyncClient
from paxon.transport import raise_descriptor_limit

__all__ = ["Listening", "run_gateway"]


class Listening(msgspec.Struct, frozen=True):
    """Where and how a gateway listens."""

    host: str
    port: int
    certificate: str = ""
    """File of its TLS certificate, with the chain; "": without TLS."""
    key: str = ""
    """File of the certificate's key."""
    client_ca: str = ""
    """File of those whose certificates clients have to show; "": none is asked for."""
    advertise: str = ""
    """The URL that clients are told; "": where it listens."""

    def url(self, port: int) -> str:
        """Where clients are told to find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.advertise or f"{'https' if self.certificate else 'http'}://{host}:{port}"

    @classmethod
    def at(
        cls,
        address: str,
        certificate: str = "",
        key: str = "",
        client_ca: str = "",
        advertise: str = "",
    ) -> Listening:
        """From `host:port`. Raises `InvalidRequest`."""
        host, colon, port = address.removeprefix("tcp://").rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65_535:
            raise InvalidRequest(f"{address!r} is no address to listen at: give HOST:PORT")
        if bool(certificate) is not bool(key) or (client_ca and not certificate):
            raise InvalidRequest("TLS takes both a certificate and its key")
        if advertise and not advertise.startswith(("http://", "https://")):
            raise InvalidRequest(f"{advertise!r} is no URL: give http://HOST:PORT")
        return cls(host.strip("[]"), int(port), certificate, key, client_ca, advertise)

    def tls(self) -> ssl.SSLContext | None:
        """What the standard library needs for it. Raises `InvalidRequest` for unusable files."""
        if not self.certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        try:
            context.load_cert_chain(Path(self.certificate), Path(self.key))
            if self.client_ca:
                context.load_verify_locations(Path(self.client_ca))
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(f"the TLS files cannot be used: {error}") from None
        return context


def run_gateway(
    servers: Sequence[str],
    secure: Secure | None,
    listening: Listening,
    ready: Callable[[int], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the port.

    Raises `PaxonError` if no server answers at first, OSError if the port cannot be had.
    """
    raise_descriptor_limit()
    asyncio.run(_run(servers, secure, listening, ready))


async def _run(
    servers: Sequence[str],
    secure: Secure | None,
    listening: Listening,
    ready: Callable[[int], None],
) -> None:
    tls = listening.tls()
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, NotImplementedError):
            loop.add_signal_handler(number, ending.set)
    async with AsyncClient(servers, secure=secure) as kv:
        gateway = EtcdGateway(kv, listening.url)
        ready(await gateway.open(listening.host, listening.port, tls))
        await ending.wait()
        await gateway.close()
