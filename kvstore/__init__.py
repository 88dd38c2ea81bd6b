"""The linearizable key-value store: state machine, clients, local clusters, command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from paxon.kvstore.errors import (
    ClientBusy,
    ClientClosed,
    ClusterUnavailable,
    InvalidRequest,
    NotLeader,
    OperationFailed,
    OutcomeUnknown,
    Overloaded,
    PaxonError,
    PipelineError,
    RequestTimeout,
    WrongCluster,
)

if TYPE_CHECKING:
    from paxon.kvstore.async_client import AsyncClient, AsyncCommandClient, AsyncPipeline
    from paxon.kvstore.client import Client, CommandClient, Future, Pipeline
    from paxon.kvstore.local_cluster import ClusterError, LocalCluster
    from paxon.kvstore.node import ServerStartError, start_server
    from paxon.kvstore.store import KVStore

__all__ = [
    "LocalCluster",
    "Client",
    "AsyncClient",
    "CommandClient",
    "AsyncCommandClient",
    "Future",
    "Pipeline",
    "AsyncPipeline",
    "KVStore",
    "start_server",
    "PaxonError",
    "InvalidRequest",
    "RequestTimeout",
    "ClusterUnavailable",
    "OutcomeUnknown",
    "Overloaded",
    "OperationFailed",
    "NotLeader",
    "WrongCluster",
    "PipelineError",
    "ClientClosed",
    "ClientBusy",
    "ClusterError",
    "ServerStartError",
]

_LAZY = {
    "LocalCluster": "local_cluster",
    "ClusterError": "local_cluster",
    "start_server": "node",
    "ServerStartError": "node",
    "Client": "client",
    "AsyncClient": "async_client",
    "AsyncCommandClient": "async_client",
    "AsyncPipeline": "async_client",
    "CommandClient": "client",
    "Future": "client",
    "Pipeline": "client",
    "KVStore": "store",
}
"""Imported when first asked for, so that each command of the command line loads what it needs."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
