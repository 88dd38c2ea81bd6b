"""Wire codec, ZeroMQ endpoints and the inbox that sockets feed. Knows nothing of Paxos.

Read `burst` (what a server receives in one go) and `inbox` (one thread, one loop: the theory of
operation), `codec` and `errors` (messages as bytes), then `endpoint` (a server's sockets) with its
parts `options`, `binding`, `intake`, `outgoing`, `descriptors`, `inherited` (what no fork is to
keep), `monitor` and `vanished`. `memory` is the same contract without sockets. `keys` encrypts,
`context` and `wake` are for clients' sockets too, `log` is how everything logs without waiting,
`orphans` ends a process with its parent.
"""

from __future__ import annotations

from paxon.transport.binding import dialled, in_ephemeral_range, is_dialable, same_place
from paxon.transport.burst import Burst
from paxon.transport.codec import HEADER_BYTES, MAX_FRAME_BYTES, FrameCodec
from paxon.transport.context import Context
from paxon.transport.descriptors import check_descriptor_limit, raise_descriptor_limit
from paxon.transport.endpoint import ZmqEndpoint
from paxon.transport.errors import (
    ForeignCluster,
    ForeignFrame,
    FrameError,
    MalformedFrame,
    OtherVersion,
    OversizedFrame,
    TransportError,
    cluster_name,
)
from paxon.transport.inbox import BurstInbox, BurstSource
from paxon.transport.inherited import closed_here, keep_from_forks
from paxon.transport.intake import Counters
from paxon.transport.keys import (
    CurveKeys,
    CurveSecurity,
    check_key,
    read_text,
    require_curve,
    secure_client,
)
from paxon.transport.memory import MemoryClient, MemoryEndpoint, MemoryHub
from paxon.transport.monitor import LinkMonitor
from paxon.transport.options import EndpointOptions
from paxon.transport.vanished import end_when_vanished

__all__ = [
    "Burst",
    "FrameCodec",
    "HEADER_BYTES",
    "MAX_FRAME_BYTES",
    "ZmqEndpoint",
    "EndpointOptions",
    "Counters",
    "MemoryHub",
    "MemoryEndpoint",
    "MemoryClient",
    "CurveKeys",
    "CurveSecurity",
    "secure_client",
    "check_key",
    "read_text",
    "require_curve",
    "LinkMonitor",
    "end_when_vanished",
    "dialled",
    "in_ephemeral_range",
    "is_dialable",
    "same_place",
    "raise_descriptor_limit",
    "check_descriptor_limit",
    "Context",
    "keep_from_forks",
    "closed_here",
    "BurstInbox",
    "BurstSource",
    "TransportError",
    "FrameError",
    "MalformedFrame",
    "ForeignFrame",
    "ForeignCluster",
    "cluster_name",
    "OtherVersion",
    "OversizedFrame",
]
