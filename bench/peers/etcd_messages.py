"""etcd's messages: Protocol Buffers without generated code.

Code that `protoc` generates is bound to one version of the runtime. Here a compact table in the
words of etcd's `rpc.proto` is given to the runtime itself when it is first needed. What it makes of
it are ordinary message classes, as quick as generated ones, of whatever version is installed.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from paxon.bench.harness.errors import BenchError

__all__ = [
    "GRANT", "KEEP_ALIVE", "LOCK", "PUT", "RANGE", "REVOKE", "STATUS", "TXN", "UNLOCK", "WATCH",
    "library", "message",
]  # fmt: skip

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
WATCH = "/etcdserverpb.Watch/Watch"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
LOCK = "/v3lockpb.Lock/Lock"
UNLOCK = "/v3lockpb.Lock/Unlock"
STATUS = "/etcdserverpb.Maintenance/Status"

_PACKAGE = "etcdserverpb"
_MESSAGES = """
ResponseHeader: uint64 cluster_id 1, uint64 member_id 2, int64 revision 3, uint64 raft_term 4
PutRequest: bytes key 1, bytes value 2
PutResponse: ResponseHeader header 1
RangeRequest: bytes key 1, bool serializable 7
RangeResponse: ResponseHeader header 1
Compare: int32 result 1, int32 target 2, bytes key 3, int64 version 4
RequestOp: PutRequest request_put 2
TxnRequest: repeated Compare compare 1, repeated RequestOp success 2, repeated RequestOp failure 3
TxnResponse: ResponseHeader header 1, bool succeeded 2
KeyValue: bytes key 1, int64 create_revision 2, int64 mod_revision 3
Event: int32 type 1, KeyValue kv 2
WatchCreateRequest: bytes key 1, bytes range_end 2, int64 start_revision 3
WatchRequest: WatchCreateRequest create_request 1
WatchResponse: ResponseHeader header 1, int64 watch_id 2, bool created 3, repeated Event events 11
LeaseGrantRequest: int64 TTL 1, int64 ID 2
LeaseGrantResponse: ResponseHeader header 1, int64 ID 2, int64 TTL 3
LeaseRevokeRequest: int64 ID 1
LeaseKeepAliveRequest: int64 ID 1
LeaseKeepAliveResponse: ResponseHeader header 1, int64 ID 2, int64 TTL 3
LockRequest: bytes name 1, int64 lease 2
LockResponse: ResponseHeader header 1, bytes key 2
UnlockRequest: bytes key 1
StatusRequest:
StatusResponse: ResponseHeader header 1, string version 2, int64 dbSize 3, uint64 leader 4
"""
"""Each message with its fields: type, name and number. What nobody here uses is left out; an enum
is an int32, and one of several a field like any other, which on the wire is the same."""


def library(name: str) -> Any:
    """A module that only the load on etcd needs. Raises `BenchError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BenchError(
            "the load on etcd needs protobuf, hpack and hyperframe: pip install 'paxon[bench]'"
        ) from None


@functools.cache
def message(name: str) -> Any:
    """The class of a message. Raises `BenchError` if protobuf is not installed."""
    factory = library("google.protobuf.message_factory")
    return factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@functools.cache
def _pool() -> Any:
    """A pool of its own, so that it meets no other program's etcd messages."""
    descriptors = library("google.protobuf.descriptor_pb2")
    field_types = descriptors.FieldDescriptorProto
    file = descriptors.FileDescriptorProto(
        name="paxon/etcd.proto", package=_PACKAGE, syntax="proto3"
    )
    for line in _MESSAGES.strip().splitlines():
        name, _, fields = line.partition(":")
        made = file.message_type.add(name=name)
        for field in filter(None, fields.split(",")):
            *repeated, kind, field_name, number = field.split()
            if kind[0].isupper():
                of = {"type": field_types.TYPE_MESSAGE, "type_name": f".{_PACKAGE}.{kind}"}
            else:
                of = {"type": getattr(field_types, f"TYPE_{kind.upper()}")}
            label = field_types.LABEL_REPEATED if repeated else field_types.LABEL_OPTIONAL
            made.field.add(name=field_name, number=int(number), label=label, **of)
    pool = library("google.protobuf.descriptor_pool").DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool
