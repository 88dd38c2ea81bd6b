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

__all__ = ["PUT", "RANGE", "STATUS", "library", "message"]

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
STATUS = "/etcdserverpb.Maintenance/Status"

_PACKAGE = "etcdserverpb"
_MESSAGES = """
ResponseHeader: uint64 cluster_id 1, uint64 member_id 2, int64 revision 3, uint64 raft_term 4
PutRequest: bytes key 1, bytes value 2
PutResponse: ResponseHeader header 1
RangeRequest: bytes key 1, bool serializable 7
RangeResponse: ResponseHeader header 1
StatusRequest:
StatusResponse: ResponseHeader header 1, string version 2, int64 dbSize 3, uint64 leader 4
"""
"""Each message with its fields: type, name and number. What nobody here uses is left out."""


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
            kind, field_name, number = field.split()
            if kind[0].isupper():
                of = {"type": field_types.TYPE_MESSAGE, "type_name": f".{_PACKAGE}.{kind}"}
            else:
                of = {"type": getattr(field_types, f"TYPE_{kind.upper()}")}
            made.field.add(
                name=field_name, number=int(number), label=field_types.LABEL_OPTIONAL, **of
            )
    pool = library("google.protobuf.descriptor_pool").DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool
