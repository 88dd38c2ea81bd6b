"""The life of a gateway as a process: from `paxon etcd`, or beside a local cluster."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from paxon.kvstore.client.links import Secure
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.etcd.cluster import Save
from paxon.kvstore.etcd.gateway import EtcdGateway
from paxon.kvstore.recipes.clients import AsyncClient
from paxon.transport import raise_descriptor_limit
from paxon.transport.intake import return_large_blocks

__all__ = ["BackgroundGateway", "Listening", "run_gateway"]

_LARGE_BLOCK = 512 << 10
"""Bytes, as of long answers: more than is asked for at each reading of a socket."""


_STOP_SECONDS = 5.0


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
    ) -> Self:
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
        """The standard library's context for it. Raises `InvalidRequest` for unusable files."""
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
    save: Save | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; `ready` is told the port, `save` makes backups.

    Raises `PaxonError` if no server answers at first, OSError if the port cannot be had.
    """
    raise_descriptor_limit()
    return_large_blocks(_LARGE_BLOCK)
    asyncio.run(_run(servers, secure, listening, ready, save))


async def _run(
    servers: Sequence[str],
    secure: Secure | None,
    listening: Listening,
    ready: Callable[[int], None],
    save: Save | None,
) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup
        with contextlib.suppress(ValueError, NotImplementedError):
            loop.add_signal_handler(number, ending.set)
    await _serve(servers, secure, listening, ready, ending, save=save)


async def _serve(
    servers: Sequence[str],
    secure: Secure | None,
    listening: Listening,
    ready: Callable[[int], None],
    ending: asyncio.Event,
    *,
    save: Save | None,
) -> None:
    tls = listening.tls()
    async with AsyncClient(servers, secure=secure) as kv:
        gateway = EtcdGateway(kv, listening.url, save)
        ready(await gateway.open(listening.host, listening.port, tls))
        await ending.wait()
        await gateway.close()


class BackgroundGateway:
    """A gateway in a thread of this process, from `start` to `stop`."""

    def __init__(
        self, servers: Sequence[str], listening: Listening, save: Save | None = None,
        secure: Secure | None = None,
    ) -> None:  # fmt: skip
        self.port = 0
        """Where it listens, once it has started."""
        self._servers, self._listening = servers, listening
        self._save, self._secure = save, secure
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="paxon-etcd", daemon=True)

    def start(self) -> None:
        """Wait until it serves. Raises what `run_gateway` does."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End it."""
        if self._loop is not None and self._ending is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ending.set)
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()

    def _serves(self, port: int) -> None:
        self.port = port
        self._ready.set()

    async def _main(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        await _serve(
            self._servers, self._secure, self._listening, self._serves, self._ending,
            save=self._save,
        )  # fmt: skip
