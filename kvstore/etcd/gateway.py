"""`EtcdGateway`: the services and the listener, as one thing that is opened and closed."""

from __future__ import annotations

import json
import resource
import ssl
from collections.abc import Callable
from pathlib import Path

from paxon.kvstore.errors import PaxonError
from paxon.kvstore.etcd.calls import methods
from paxon.kvstore.etcd.cluster import ETCD_VERSION, ClusterService, Save
from paxon.kvstore.etcd.front import Front
from paxon.kvstore.etcd.kv import KV
from paxon.kvstore.etcd.lease import LeaseService
from paxon.kvstore.etcd.listener import Listener
from paxon.kvstore.etcd.locks import LockService
from paxon.kvstore.etcd.watch import WatchService
from paxon.kvstore.recipes.clients import AsyncClient

__all__ = ["EtcdGateway"]

_HEALTH_SECONDS = 2.0
_TEXT = "text/plain; charset=utf-8"
"""What etcd calls its health."""


def _memory() -> int:
    """Bytes that this process has in memory; where the system does not say, the most it had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return pages * resource.getpagesize()


class EtcdGateway:
    """Serves the etcd v3 API in front of a cluster, whose ordinary client it is."""

    def __init__(
        self,
        kv: AsyncClient,
        url: Callable[[int], str] | None = None,
        save: Save | None = None,
    ) -> None:
        """Args:

        url: where the member list says that clients find it, of its port; None: nowhere.
        save: writes the backups that clients ask for; None: they are refused.
        """
        self._url = url
        self._front = front = Front(kv)
        services = (KV, WatchService, LeaseService, LockService)
        tables = [service(front).methods for service in services]
        tables.append(ClusterService(front, save).methods)
        pages = {"/version": self._version, "/health": self._health, "/metrics": self._metrics}
        self._listener = Listener(methods(*tables), pages)

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Get to know the cluster, then listen; the port.

        Raises `PaxonError` if no server answers, OSError if the port cannot be had.
        """
        bound = await self._listener.open(host, port, tls)
        await self._front.open("" if self._url is None else self._url(bound))
        await self._listener.serve()
        return bound

    async def close(self) -> None:
        """End all connections. The client stays open."""
        await self._listener.close()
        await self._front.close()

    async def _version(self) -> tuple[int, str, bytes]:
        major, minor, _ = ETCD_VERSION.split(".")
        said = {"etcdserver": ETCD_VERSION, "etcdcluster": f"{major}.{minor}.0"}
        return 200, "application/json", json.dumps(said, separators=(",", ":")).encode()

    async def _health(self) -> tuple[int, str, bytes]:
        try:
            await self._front.now(_HEALTH_SECONDS)
        except PaxonError:
            return 503, _TEXT, b'{"health":"false"}'
        return 200, _TEXT, b'{"health":"true"}'

    async def _metrics(self) -> tuple[int, str, bytes]:
        front, listener = self._front, self._listener
        lines = [
            "# HELP process_resident_memory_bytes Resident memory size in bytes.",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {_memory()}",
            "# HELP etcd_server_has_leader Whether or not a leader exists.",
            "# TYPE etcd_server_has_leader gauge",
            f"etcd_server_has_leader {int(bool(front.leader))}",
            "# HELP paxon_etcd_connections Open connections of etcd's clients.",
            "# TYPE paxon_etcd_connections gauge",
            f"paxon_etcd_connections {len(listener.connections)}",
            "# HELP paxon_etcd_requests_total Calls that came.",
            "# TYPE paxon_etcd_requests_total counter",
            f"paxon_etcd_requests_total {listener.requests}",
            "# HELP paxon_etcd_calls Calls that are under way.",
            "# TYPE paxon_etcd_calls gauge",
            f"paxon_etcd_calls {listener.tally.calls}",
            "# HELP paxon_etcd_revision The highest revision of the store that was seen.",
            "# TYPE paxon_etcd_revision gauge",
            f"paxon_etcd_revision {front.revision}",
            "# HELP paxon_etcd_term The highest ballot round that was seen.",
            "# TYPE paxon_etcd_term gauge",
            f"paxon_etcd_term {front.term}",
        ]
        return 200, "text/plain; version=0.0.4", "".join(f"{line}\n" for line in lines).encode()
