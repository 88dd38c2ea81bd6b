"""`EtcdGateway`: the services and the listener, as one thing that is opened and closed."""

from __future__ import annotations

import ssl

from paxon.kvstore.etcd.calls import methods
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.kv import KV
from paxon.kvstore.etcd.listener import Listener
from paxon.kvstore.recipes.clients import AsyncClient

__all__ = ["EtcdGateway"]


class EtcdGateway:
    """Serves the etcd v3 API in front of a cluster, whose ordinary client it is."""

    def __init__(self, kv: AsyncClient) -> None:
        self._front = Front(kv)
        self._listener = Listener(methods(KV(self._front).methods))

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Get to know the cluster, then listen; the port.

        Raises `PaxonError` if no server answers, OSError if the port cannot be had.
        """
        await self._front.open()
        return await self._listener.open(host, port, tls)

    async def close(self) -> None:
        """End all connections. The client stays open."""
        await self._listener.close()
        await self._front.close()
