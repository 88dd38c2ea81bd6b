"""etcd's messages: Protocol Buffers without generated code.

Code that `protoc` generates is bound to one version of the runtime. Here a compact table in the
words of etcd's API is given to the runtime itself when it is first needed. What it makes of it are
ordinary message classes, as quick as generated ones, of whatever version is installed.
"""

from __future__ import annotations

import binascii
import functools
import json
import re
from base64 import b64decode
from typing import Any

from paxon.kvstore.errors import PaxonError

__all__ = ["Missing", "decode", "encode", "from_json", "message", "to_json"]

_PACKAGE = "etcdserverpb"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)
_NUMBER = re.compile(r"-?\d{1,20}", re.ASCII)
_MESSAGES = """
ResponseHeader: uint64 cluster_id 1, uint64 member_id 2, int64 revision 3, uint64 raft_term 4
KeyValue: bytes key 1, int64 create_revision 2, int64 mod_revision 3, int64 version 4, bytes value 5, int64 lease 6
EventType = PUT 0, DELETE 1
Event: EventType type 1, KeyValue kv 2, KeyValue prev_kv 3

SortOrder = NONE 0, ASCEND 1, DESCEND 2
SortTarget = KEY 0, VERSION 1, CREATE 2, MOD 3, VALUE 4
RangeRequest: bytes key 1, bytes range_end 2, int64 limit 3, int64 revision 4, SortOrder sort_order 5, SortTarget sort_target 6, bool serializable 7, bool keys_only 8, bool count_only 9, int64 min_mod_revision 10, int64 max_mod_revision 11, int64 min_create_revision 12, int64 max_create_revision 13
RangeResponse: ResponseHeader header 1, KeyValue* kvs 2, bool more 3, int64 count 4
PutRequest: bytes key 1, bytes value 2, int64 lease 3, bool prev_kv 4, bool ignore_value 5, bool ignore_lease 6
PutResponse: ResponseHeader header 1, KeyValue prev_kv 2
DeleteRangeRequest: bytes key 1, bytes range_end 2, bool prev_kv 3
DeleteRangeResponse: ResponseHeader header 1, int64 deleted 2, KeyValue* prev_kvs 3
RequestOp: RangeRequest request_range 1 request, PutRequest request_put 2 request, DeleteRangeRequest request_delete_range 3 request, TxnRequest request_txn 4 request
ResponseOp: RangeResponse response_range 1 response, PutResponse response_put 2 response, DeleteRangeResponse response_delete_range 3 response, TxnResponse response_txn 4 response
CompareResult = EQUAL 0, GREATER 1, LESS 2, NOT_EQUAL 3
CompareTarget = VERSION 0, CREATE 1, MOD 2, VALUE 3, LEASE 4
Compare: CompareResult result 1, CompareTarget target 2, bytes key 3, int64 version 4 target_union, int64 create_revision 5 target_union, int64 mod_revision 6 target_union, bytes value 7 target_union, int64 lease 8 target_union, bytes range_end 64
TxnRequest: Compare* compare 1, RequestOp* success 2, RequestOp* failure 3
TxnResponse: ResponseHeader header 1, bool succeeded 2, ResponseOp* responses 3
CompactionRequest: int64 revision 1, bool physical 2
CompactionResponse: ResponseHeader header 1

FilterType = NOPUT 0, NODELETE 1
WatchCreateRequest: bytes key 1, bytes range_end 2, int64 start_revision 3, bool progress_notify 4, FilterType* filters 5, bool prev_kv 6, int64 watch_id 7, bool fragment 8
WatchCancelRequest: int64 watch_id 1
WatchProgressRequest:
WatchRequest: WatchCreateRequest create_request 1 request_union, WatchCancelRequest cancel_request 2 request_union, WatchProgressRequest progress_request 3 request_union
WatchResponse: ResponseHeader header 1, int64 watch_id 2, bool created 3, bool canceled 4, int64 compact_revision 5, string cancel_reason 6, bool fragment 7, Event* events 11

LeaseGrantRequest: int64 TTL 1, int64 ID 2
LeaseGrantResponse: ResponseHeader header 1, int64 ID 2, int64 TTL 3, string error 4
LeaseRevokeRequest: int64 ID 1
LeaseRevokeResponse: ResponseHeader header 1
LeaseKeepAliveRequest: int64 ID 1
LeaseKeepAliveResponse: ResponseHeader header 1, int64 ID 2, int64 TTL 3
LeaseTimeToLiveRequest: int64 ID 1, bool keys 2
LeaseTimeToLiveResponse: ResponseHeader header 1, int64 ID 2, int64 TTL 3, int64 grantedTTL 4, bytes* keys 5
LeaseLeasesRequest:
LeaseStatus: int64 ID 1
LeaseLeasesResponse: ResponseHeader header 1, LeaseStatus* leases 2

LockRequest: bytes name 1, int64 lease 2
LockResponse: ResponseHeader header 1, bytes key 2
UnlockRequest: bytes key 1
UnlockResponse: ResponseHeader header 1
LeaderKey: bytes name 1, bytes key 2, int64 rev 3, int64 lease 4
CampaignRequest: bytes name 1, int64 lease 2, bytes value 3
CampaignResponse: ResponseHeader header 1, LeaderKey leader 2
LeaderRequest: bytes name 1
LeaderResponse: ResponseHeader header 1, KeyValue kv 2
ResignRequest: LeaderKey leader 1
ResignResponse: ResponseHeader header 1
ProclaimRequest: LeaderKey leader 1, bytes value 2
ProclaimResponse: ResponseHeader header 1

Member: uint64 ID 1, string name 2, string* peerURLs 3, string* clientURLs 4, bool isLearner 5
MemberAddRequest: string* peerURLs 1, bool isLearner 2
MemberAddResponse: ResponseHeader header 1, Member member 2, Member* members 3
MemberRemoveRequest: uint64 ID 1
MemberRemoveResponse: ResponseHeader header 1, Member* members 2
MemberUpdateRequest: uint64 ID 1, string* peerURLs 2
MemberUpdateResponse: ResponseHeader header 1, Member* members 2
MemberListRequest: bool linearizable 1
MemberListResponse: ResponseHeader header 1, Member* members 2
MemberPromoteRequest: uint64 ID 1
MemberPromoteResponse: ResponseHeader header 1, Member* members 2

AlarmType = NONE 0, NOSPACE 1, CORRUPT 2
AlarmAction = GET 0, ACTIVATE 1, DEACTIVATE 2
AlarmRequest: AlarmAction action 1, uint64 memberID 2, AlarmType alarm 3
AlarmMember: uint64 memberID 1, AlarmType alarm 2
AlarmResponse: ResponseHeader header 1, AlarmMember* alarms 2
StatusRequest:
StatusResponse: ResponseHeader header 1, string version 2, int64 dbSize 3, uint64 leader 4, uint64 raftIndex 5, uint64 raftTerm 6, uint64 raftAppliedIndex 7, string* errors 8, int64 dbSizeInUse 9, bool isLearner 10
DefragmentRequest:
DefragmentResponse: ResponseHeader header 1
HashRequest:
HashResponse: ResponseHeader header 1, uint32 hash 2
HashKVRequest: int64 revision 1
HashKVResponse: ResponseHeader header 1, uint32 hash 2, int64 compact_revision 3
SnapshotRequest:
SnapshotResponse: ResponseHeader header 1, uint64 remaining_bytes 2, bytes blob 3
MoveLeaderRequest: uint64 targetID 1
MoveLeaderResponse: ResponseHeader header 1

HealthCheckRequest: string service 1
ServingStatus = UNKNOWN 0, SERVING 1, NOT_SERVING 2
HealthCheckResponse: ServingStatus status 1

AuthRequest:
AuthStatusResponse: ResponseHeader header 1, bool enabled 2, uint64 authRevision 3
"""  # noqa: E501
"""Each message with its fields: type (`*`: repeated), name, number, and the oneof it belongs to; of
an enumeration its names and numbers. Of requests about users and roles nothing is read."""


class Missing(PaxonError):
    """A library is not installed that only the etcd API needs."""


@functools.cache
def message(name: str) -> Any:
    """The class of a message. Raises `Missing` if protobuf is not installed."""
    try:
        from google.protobuf import message_factory  # noqa: PLC0415 (part of an extra)
    except ImportError:
        raise Missing(
            "etcd's API needs protobuf, hpack and h11: pip install 'paxon[etcd]'"
        ) from None
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def decode(kind: Any, data: bytes) -> Any:
    """The message in these bytes. Raises ValueError if they are none."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415 (part of an extra)

    try:
        return kind.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def encode(made: Any) -> bytes:
    """The bytes of a message."""
    data: bytes = made.SerializeToString()
    return data


def from_json(kind: Any, text: bytes) -> Any:
    """The message in the first JSON document of a text. Raises ValueError if there is none.

    As etcd's gateway has it: fields that nobody knows are ignored, and so is what follows. Base64
    is the standard one with its padding, a number no fraction, an enumeration's name no number:
    what a library would make the best of is a mistake that nobody would notice.
    """
    from google.protobuf import json_format  # noqa: PLC0415 (part of an extra)

    try:
        found, _ = _JSON.raw_decode(text.decode().lstrip())
        found = {} if found is None else found
        _check(kind.DESCRIPTOR, found)
        return json_format.ParseDict(
            found, kind(), ignore_unknown_fields=True, max_recursion_depth=50
        )
    except (json_format.ParseError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _check(descriptor: Any, found: Any) -> None:
    """Raises ValueError for what is no JSON of such a message."""
    if not isinstance(found, dict):
        raise ValueError(f"{descriptor.name} has to be a JSON object")
    fields = _fields(descriptor)
    for name, value in found.items():
        field, repeated = fields.get(name, (None, False))
        if field is None or value is None:
            continue
        if not repeated:
            _check_value(field, value)
        elif isinstance(value, list):
            for each in value:
                _check_value(field, each)
        else:
            raise ValueError(f"{name} has to be a JSON array")


def _check_value(field: Any, value: Any) -> None:
    if field.message_type is not None:
        _check(field.message_type, value)
    elif field.enum_type is not None:
        if isinstance(value, str) and value not in field.enum_type.values_by_name:
            raise ValueError(f"{field.name} has no value {value!r}")
    elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64, field.CPPTYPE_UINT32):
        if not _NUMBER.fullmatch(str(value)):  # (a float has a point, or an exponent)
            raise ValueError(f"{field.name} has to be a whole number, or one in quotes")
    elif field.type == field.TYPE_BYTES:
        try:
            b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError(f"{field.name} has to be a text in base64") from None


@functools.cache
def _fields(descriptor: Any) -> dict[str, tuple[Any, bool]]:
    """A message's fields by both of their names, and whether they are repeated."""
    found = {}
    for each in descriptor.fields:
        repeated = each.is_repeated if hasattr(each, "is_repeated") else each.label == 3
        found[each.name] = found[each.camelcase_name] = each, repeated
    return found


def to_json(made: Any) -> Any:
    """A message as JSON has it: no zeros, large numbers as strings, bytes in base64."""
    from google.protobuf import json_format  # noqa: PLC0415 (part of an extra)

    return json_format.MessageToDict(made, preserving_proto_field_name=True)


@functools.cache
def _pool() -> Any:
    """A pool of its own, so that it meets no other program's etcd messages."""
    from google.protobuf import descriptor_pb2, descriptor_pool  # noqa: PLC0415 (part of an extra)

    file = descriptor_pb2.FileDescriptorProto(
        name="paxon/etcd.proto", package=_PACKAGE, syntax="proto3"
    )
    enums = set()
    for line in filter(None, _MESSAGES.strip().splitlines()):
        if " = " in line:
            name, _, values = line.partition(" = ")
            enums.add(name)
            # (The names of an enumeration stand beside it: so each has a message around it.)
            around = file.message_type.add(name=f"{name}s")
            enum = around.enum_type.add(name=name)
            for value in values.split(", "):
                label, number = value.split()
                enum.value.add(name=label, number=int(number))
            continue
        name, _, fields = line.partition(":")
        made = file.message_type.add(name=name)
        for field in filter(None, fields.strip().split(", ")):
            _add_field(made, field.split(), enums)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(made: Any, words: list[str], enums: set[str]) -> None:
    kinds = type(made).DESCRIPTOR.file.message_types_by_name["FieldDescriptorProto"]._concrete_class
    kind, name, number, *group = words
    repeated, kind = kind.endswith("*"), kind.removesuffix("*")
    field = made.field.add(name=name, number=int(number))
    field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
    if kind in enums:
        field.type, field.type_name = kinds.TYPE_ENUM, f".{_PACKAGE}.{kind}s.{kind}"
    elif kind[0].isupper():
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")
    for of in group:
        names = [oneof.name for oneof in made.oneof_decl]
        if of not in names:
            made.oneof_decl.add(name=of)
            names.append(of)
        field.oneof_index = names.index(of)
