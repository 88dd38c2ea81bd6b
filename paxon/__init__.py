"""Paxon: Multi-Paxos with one pykka actor a server, and a linearizable key-value store on top.

All that an application needs is here:

- `Client` and `AsyncClient` talk to a cluster's key-value store; `CommandClient` and
  `AsyncCommandClient` to a state machine of your own.
- `LocalCluster` runs a few servers on this machine, each a process of its own.
- `Replicated` is what you subclass to have a class of your own replicated, with `command` and
  `query`; `proxy` calls it. `StateMachine` is the same with bytes, for full control.
- `start_server` puts a server into your own process.
- Every error that a client raises is a `PaxonError`.
- `testing` runs a cluster inside your tests, in memory.

Names are imported when they are first asked for, so that `import paxon` costs next to nothing.
The packages behind them, in the order in which to read them: `paxon.transport`, `paxon.actors`,
`paxon.kvstore`, `paxon.bench`; docs/ARCHITECTURE.md shows how they fit together.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paxon.actors import (
        Execute,
        Limit,
        NotLeading,
        PaxosServer,
        ServerRef,
        Settings,
        SettingsError,
        StateMachine,
    )
    from paxon.kvstore import (
        AsyncBarrier,
        AsyncClient,
        AsyncCommandClient,
        AsyncCounter,
        AsyncDoubleBarrier,
        AsyncElection,
        AsyncHeld,
        AsyncInside,
        AsyncLeadership,
        AsyncLease,
        AsyncLock,
        AsyncMembers,
        AsyncMembership,
        AsyncMirror,
        AsyncObservation,
        AsyncPipeline,
        AsyncPriorityQueue,
        AsyncQueue,
        AsyncQueueItem,
        AsyncRWLock,
        AsyncSemaphore,
        AsyncTransaction,
        AsyncWatch,
        Barrier,
        CallFailed,
        ChangeRefused,
        Client,
        ClientBusy,
        ClientClosed,
        ClusterError,
        ClusterUnavailable,
        CommandClient,
        Compacted,
        Condition,
        Conflict,
        Contender,
        Counter,
        Delete,
        DoubleBarrier,
        Election,
        Entry,
        Event,
        Future,
        FutureRevision,
        Get,
        Held,
        Inside,
        InvalidRequest,
        KVStore,
        Leadership,
        Lease,
        LeaseExpired,
        LeaseInfo,
        LocalCluster,
        Lock,
        LockLost,
        Members,
        Membership,
        Mirror,
        NotAcquired,
        NotLeader,
        Observation,
        OperationFailed,
        OutcomeUnknown,
        Overloaded,
        PaxonError,
        Pipeline,
        PipelineError,
        PriorityQueue,
        Put,
        Queue,
        QueueItem,
        Range,
        RangeResult,
        Replicated,
        ReplicatedCounter,
        ReplicatedDict,
        ReplicatedList,
        ReplicatedSet,
        RequestTimeout,
        RWLock,
        Semaphore,
        ServerStartError,
        TooLarge,
        Transaction,
        Txn,
        TxnResult,
        Watch,
        WrongCluster,
        async_proxy,
        calls,
        command,
        proxy,
        query,
        since,
        start_server,
    )

__version__ = "0.1.0"

__all__ = [
    "Client",
    "AsyncClient",
    "CommandClient",
    "AsyncCommandClient",
    "Pipeline",
    "AsyncPipeline",
    "Future",
    "LocalCluster",
    "StateMachine",
    "Limit",
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
    "ServerRef",
    "Execute",
    "NotLeading",
    "PaxosServer",
    "Settings",
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
    "SettingsError",
    "__version__",
]

# In a checkout this folder has no neighbours: the packages are found where they are installed.
__path__ = extend_path(__path__, __name__)

_OF_ACTORS = frozenset(
    {
        "Execute",
        "Limit",
        "NotLeading",
        "PaxosServer",
        "ServerRef",
        "Settings",
        "SettingsError",
        "StateMachine",
    }
)
"""Names that `paxon.actors` offers; all others are those of `paxon.kvstore`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "paxon.actors" if name in _OF_ACTORS else "paxon.kvstore"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
