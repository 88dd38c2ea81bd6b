"""The linearizable key-value store: state machine, clients, local clusters, command line.

Read `store` (the state machine), `client`, `recipes` (locks and elections), `objects` (your own
class, replicated), `cluster` (servers as processes), `etcd` (etcd's API), `testing` (one server in
memory) and `cli` (the command `paxon`), in that order: each may import those before it, and none of
those after it. `errors`, what clients raise, and `streams` are for all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from paxon.kvstore.errors import (
    CallFailed,
    ChangeRefused,
    ClientBusy,
    ClientClosed,
    ClusterUnavailable,
    Compacted,
    Conflict,
    FutureRevision,
    InvalidRequest,
    LeaseExpired,
    LockLost,
    NotAcquired,
    NotLeader,
    OperationFailed,
    OutcomeUnknown,
    Overloaded,
    PaxonError,
    PipelineError,
    RequestTimeout,
    TooLarge,
    WrongCluster,
)

if TYPE_CHECKING:
    from paxon.kvstore.client.async_client import AsyncCommandClient, AsyncPipeline
    from paxon.kvstore.client.calls.answers import Entry, RangeResult, TxnResult
    from paxon.kvstore.client.calls.async_faces import AsyncTransaction
    from paxon.kvstore.client.calls.calls import Delete, Get, Put, Range, Txn
    from paxon.kvstore.client.calls.conditions import Condition
    from paxon.kvstore.client.calls.faces import Transaction
    from paxon.kvstore.client.client import CommandClient, Future, Pipeline
    from paxon.kvstore.client.keys import secure_with
    from paxon.kvstore.client.leader_search import CoreOptions
    from paxon.kvstore.client.leases.async_lease import AsyncLease
    from paxon.kvstore.client.leases.lease import Lease
    from paxon.kvstore.client.leases.requests import LeaseInfo
    from paxon.kvstore.client.watches.async_watch import AsyncWatch
    from paxon.kvstore.client.watches.events import Event
    from paxon.kvstore.client.watches.mirror import AsyncMirror, Mirror
    from paxon.kvstore.client.watches.watch import Watch
    from paxon.kvstore.cluster.local_cluster import ClusterError, LocalCluster
    from paxon.kvstore.cluster.node import ServerStartError, start_server
    from paxon.kvstore.objects.async_proxy import async_proxy
    from paxon.kvstore.objects.fields import since
    from paxon.kvstore.objects.proxy import calls, proxy
    from paxon.kvstore.objects.ready import (
        ReplicatedCounter,
        ReplicatedDict,
        ReplicatedList,
        ReplicatedSet,
    )
    from paxon.kvstore.objects.replicated import Replicated, command, query
    from paxon.kvstore.recipes.async_barrier import AsyncBarrier, AsyncDoubleBarrier, AsyncInside
    from paxon.kvstore.recipes.async_election import AsyncElection, AsyncLeadership
    from paxon.kvstore.recipes.async_lock import AsyncLock, AsyncRWLock, AsyncSemaphore
    from paxon.kvstore.recipes.async_queue import AsyncPriorityQueue, AsyncQueue, AsyncQueueItem
    from paxon.kvstore.recipes.barrier import Barrier, DoubleBarrier, Inside
    from paxon.kvstore.recipes.clients import AsyncClient, Client
    from paxon.kvstore.recipes.contests import Contender
    from paxon.kvstore.recipes.election import Election, Leadership
    from paxon.kvstore.recipes.held import AsyncHeld, Held
    from paxon.kvstore.recipes.lock import Lock, RWLock, Semaphore
    from paxon.kvstore.recipes.members import (
        AsyncCounter,
        AsyncMembers,
        AsyncMembership,
        Counter,
        Members,
        Membership,
    )
    from paxon.kvstore.recipes.observing import AsyncObservation, Observation
    from paxon.kvstore.recipes.queue import PriorityQueue, Queue, QueueItem
    from paxon.kvstore.store.store import KVStore
    from paxon.transport import CurveKeys, CurveSecurity

__all__ = [
    "LocalCluster",
    "CoreOptions",
    "CurveKeys",
    "CurveSecurity",
    "secure_with",
    "Client",
    "AsyncClient",
    "CommandClient",
    "AsyncCommandClient",
    "Future",
    "Pipeline",
    "AsyncPipeline",
    "Put",
    "Get",
    "Delete",
    "Range",
    "Txn",
    "Condition",
    "Entry",
    "RangeResult",
    "TxnResult",
    "Transaction",
    "AsyncTransaction",
    "Event",
    "Watch",
    "AsyncWatch",
    "Mirror",
    "AsyncMirror",
    "Observation",
    "AsyncObservation",
    "Lease",
    "AsyncLease",
    "LeaseInfo",
    "Lock",
    "AsyncLock",
    "Semaphore",
    "AsyncSemaphore",
    "RWLock",
    "AsyncRWLock",
    "Held",
    "AsyncHeld",
    "Election",
    "AsyncElection",
    "Leadership",
    "AsyncLeadership",
    "Contender",
    "Members",
    "AsyncMembers",
    "Membership",
    "AsyncMembership",
    "Counter",
    "AsyncCounter",
    "Queue",
    "AsyncQueue",
    "PriorityQueue",
    "AsyncPriorityQueue",
    "QueueItem",
    "AsyncQueueItem",
    "Barrier",
    "AsyncBarrier",
    "DoubleBarrier",
    "AsyncDoubleBarrier",
    "Inside",
    "AsyncInside",
    "KVStore",
    "Replicated",
    "command",
    "query",
    "since",
    "proxy",
    "async_proxy",
    "calls",
    "ReplicatedDict",
    "ReplicatedSet",
    "ReplicatedList",
    "ReplicatedCounter",
    "start_server",
    "PaxonError",
    "InvalidRequest",
    "TooLarge",
    "FutureRevision",
    "Compacted",
    "LeaseExpired",
    "LockLost",
    "NotAcquired",
    "Conflict",
    "RequestTimeout",
    "ClusterUnavailable",
    "OutcomeUnknown",
    "Overloaded",
    "OperationFailed",
    "CallFailed",
    "ChangeRefused",
    "NotLeader",
    "WrongCluster",
    "PipelineError",
    "ClientClosed",
    "ClientBusy",
    "ClusterError",
    "ServerStartError",
]

_LAZY = {
    "LocalCluster": "cluster.local_cluster",
    "ClusterError": "cluster.local_cluster",
    "start_server": "cluster.node",
    "CurveSecurity": "cluster.node",
    "ServerStartError": "cluster.node",
    **dict.fromkeys(("Client", "AsyncClient"), "recipes.clients"),
    **dict.fromkeys(("Lock", "Semaphore", "RWLock"), "recipes.lock"),
    **dict.fromkeys(("AsyncLock", "AsyncSemaphore", "AsyncRWLock"), "recipes.async_lock"),
    **dict.fromkeys(("Held", "AsyncHeld"), "recipes.held"),
    **dict.fromkeys(("Election", "Leadership"), "recipes.election"),
    **dict.fromkeys(("AsyncElection", "AsyncLeadership"), "recipes.async_election"),
    "Contender": "recipes.contests",
    **dict.fromkeys(("Barrier", "DoubleBarrier", "Inside"), "recipes.barrier"),
    **dict.fromkeys(("AsyncBarrier", "AsyncDoubleBarrier", "AsyncInside"), "recipes.async_barrier"),
    **dict.fromkeys(
        ("Members", "AsyncMembers", "Membership", "AsyncMembership"), "recipes.members"
    ),
    **dict.fromkeys(("Counter", "AsyncCounter"), "recipes.members"),
    **dict.fromkeys(("Queue", "PriorityQueue", "QueueItem"), "recipes.queue"),
    **dict.fromkeys(("AsyncQueue", "AsyncPriorityQueue", "AsyncQueueItem"), "recipes.async_queue"),
    "CoreOptions": "client.leader_search",
    **dict.fromkeys(("CurveKeys", "secure_with"), "client.keys"),
    "AsyncCommandClient": "client.async_client",
    "AsyncPipeline": "client.async_client",
    "CommandClient": "client.client",
    "Future": "client.client",
    "Pipeline": "client.client",
    **dict.fromkeys(("Put", "Get", "Delete", "Range", "Txn"), "client.calls.calls"),
    **dict.fromkeys(("Entry", "RangeResult", "TxnResult"), "client.calls.answers"),
    "Condition": "client.calls.conditions",
    "Transaction": "client.calls.faces",
    "AsyncTransaction": "client.calls.async_faces",
    "Event": "client.watches.events",
    "Watch": "client.watches.watch",
    "AsyncWatch": "client.watches.async_watch",
    "Mirror": "client.watches.mirror",
    "AsyncMirror": "client.watches.mirror",
    "Observation": "recipes.observing",
    "AsyncObservation": "recipes.observing",
    "Lease": "client.leases.lease",
    "AsyncLease": "client.leases.async_lease",
    "LeaseInfo": "client.leases.requests",
    "KVStore": "store.store",
    "Replicated": "objects.replicated",
    "command": "objects.replicated",
    "query": "objects.replicated",
    "since": "objects.fields",
    "proxy": "objects.proxy",
    "calls": "objects.proxy",
    "async_proxy": "objects.async_proxy",
    "ReplicatedDict": "objects.ready",
    "ReplicatedSet": "objects.ready",
    "ReplicatedList": "objects.ready",
    "ReplicatedCounter": "objects.ready",
}
"""Imported when first asked for, so that each command of the command line loads what it needs."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
