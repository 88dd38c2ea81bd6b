"""The service KV: Range, Put, DeleteRange, Txn and Compact."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Literal, TypeAlias

import msgspec

from paxon.kvstore.etcd import errors
from paxon.kvstore.etcd.calls import Asking, Done, Method, until
from paxon.kvstore.etcd.front import REVISION, Front, span_end
from paxon.kvstore.etcd.messages import message
from paxon.kvstore.store import operations as wire
from paxon.kvstore.store.items import Row
from paxon.kvstore.store.operations import Result

__all__ = ["KV", "key_value"]

_MAX_REQUEST_BYTES = 3 << 19
"""Of a write, as etcd takes it with its usual settings."""
_MAX_OPERATIONS = 128
"""In each part of a transaction; the same."""
_ORDERS: list[Literal["key", "version", "created", "modified", "value"]] = [
    "key", "version", "created", "modified", "value",
]  # fmt: skip
_FIELDS = ["key", "version", "create_revision", "mod_revision", "value"]
"""What to sort by, in the same order."""
_ASCEND, _DESCEND = 1, 2
_RELATIONS: list[Literal["=", ">", "<", "!="]] = ["=", ">", "<", "!="]
_TARGETS: list[tuple[wire.Target, str]] = [
    ("version", "version"), ("created", "create_revision"), ("modified", "mod_revision"),
    ("value", "value"), ("lease", "lease"),
]  # fmt: skip
_MOST = wire.MAX_NUMBER
_MAX_ANSWER, _MOST_GATHERED = 128 << 20, 256 << 20
"""Bytes of the longest answer to a range, and of all that are being put together."""
_ROW_BYTES = 64
"""Of a row, besides its key and value."""
_BY: dict[str, Callable[[Row], Any]] = {
    "value": itemgetter(1), "created": itemgetter(2), "modified": itemgetter(3),
    "version": itemgetter(4),
}  # fmt: skip
Ask: TypeAlias = Callable[[wire.Range, float], Awaitable[Result]]


def key_value(row: Row) -> Any:
    """An item of the store as etcd's clients get it."""
    key, value, created, modified, version, lease = row
    return message("KeyValue")(
        key=key, value=value, create_revision=created, mod_revision=modified, version=version,
        lease=lease,
    )  # fmt: skip


def _range(request: Any) -> wire.Range:
    if not request.key:
        raise errors.empty_key()
    if request.sort_order not in (0, 1, 2) or not 0 <= request.sort_target < len(_ORDERS):
        raise errors.invalid_sort()
    cut = _is_cut_first(request)
    return wire.Range(
        request.key,
        span_end(request.range_end),
        limit=min(request.limit + 1, _MOST) if cut else max(0, request.limit),
        revision=max(0, request.revision),
        order="key" if cut else _ORDERS[request.sort_target],
        backward=request.sort_order == _DESCEND,
        keys_only=request.keys_only and not cut,
        count_only=request.count_only,
        min_modified=request.min_mod_revision,
        max_modified=request.max_mod_revision,
        min_created=request.min_create_revision,
        max_created=request.max_create_revision,
    )


def _is_cut_first(request: Any) -> bool:
    """Whether a limit counts in the order of keys: what it leaves, and one more, is sorted.

    So etcd has it where something to sort by is named, but no order, and no revisions are either.
    """
    bounds = (
        request.min_mod_revision, request.max_mod_revision,
        request.min_create_revision, request.max_create_revision,
    )  # fmt: skip
    return request.limit > 0 and request.sort_order == 0 < request.sort_target and not any(bounds)


def _sort_cut(request: Any, answer: Any) -> Any:
    """The answer to a request, of those to `_range(request)`."""
    if _is_cut_first(request):
        rows = sorted(answer.kvs, key=attrgetter(_FIELDS[request.sort_target]))
        answer.more = len(rows) > request.limit
        del answer.kvs[:]
        answer.kvs.extend(rows[: request.limit])
        if request.keys_only:
            for row in answer.kvs:
                row.ClearField("value")
    return answer


def _put(request: Any) -> wire.PutItem:
    if not request.key:
        raise errors.empty_key()
    if request.ignore_value and request.value:
        raise errors.value_provided()
    if request.ignore_lease and request.lease:
        raise errors.lease_provided()
    if len(request.key) > wire.MAX_KEY_BYTES:
        raise errors.too_large()
    return wire.PutItem(
        request.key,
        None if request.ignore_value else request.value,
        None if request.ignore_lease else request.lease,
        request.prev_kv,
    )


def _put_alone(request: Any) -> wire.PutItem:
    if len(request.value) + len(request.key) > _MAX_REQUEST_BYTES:
        raise errors.too_large()
    return _put(request)


def _delete(request: Any) -> wire.DeleteRange:
    if not request.key:
        raise errors.empty_key()
    return wire.DeleteRange(request.key, span_end(request.range_end), request.prev_kv)


def _compare(request: Any) -> wire.Compare:
    if not request.key:
        raise errors.empty_key()
    if not 0 <= request.result < len(_RELATIONS) or not 0 <= request.target < len(_TARGETS):
        raise errors.Refused(errors.Code.INVALID_ARGUMENT, "etcdserver: invalid comparison")
    target, field = _TARGETS[request.target]
    return wire.Compare(
        request.key,
        target,
        _RELATIONS[request.result],
        getattr(request, field),
        span_end(request.range_end),
    )


def _operations(requests: Sequence[Any], room: int) -> list[wire.Inner]:
    made: list[wire.Inner] = []
    for request in requests:
        match request.WhichOneof("request"):
            case "request_range":
                made.append(_range(request.request_range))
            case "request_put":
                made.append(_put(request.request_put))
            case "request_delete_range":
                made.append(_delete(request.request_delete_range))
            case "request_txn":
                made.append(_txn(request.request_txn, room))
            case _:  # nothing to do, as etcd has it
                raise errors.Refused(errors.Code.INVALID_ARGUMENT, "etcdserver: key not found")
    return made


def _txn(request: Any, room: int) -> wire.Txn:
    size = max(len(request.compare), len(request.success), len(request.failure))
    if size > room:
        raise errors.too_many_operations()
    compare = [_compare(each) for each in request.compare]
    inner = room - size
    try:
        return wire.Txn(
            compare, _operations(request.success, inner), _operations(request.failure, inner)
        )
    except wire.LargeTxn:
        raise errors.too_many_operations() from None
    except ValueError as error:
        if "twice" in str(error):
            raise errors.duplicate_key() from None
        raise errors.Refused(errors.Code.INVALID_ARGUMENT, f"etcdserver: {error}") from None


def _txn_alone(request: Any) -> wire.Txn:
    if request.ByteSize() > _MAX_REQUEST_BYTES:
        raise errors.too_large()
    return _txn(request, _MAX_OPERATIONS)


def _serializable(request: Any) -> bool:
    """Whether a transaction only reads, and nothing of what it reads need be new."""
    for operation in (*request.success, *request.failure):
        match operation.WhichOneof("request"):
            case "request_range":
                if not operation.request_range.serializable:
                    return False
            case "request_txn":
                if not _serializable(operation.request_txn):
                    return False
            case _:
                return False
    return True


class KV:
    """Answers the calls of this service."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._gathered = 0
        """Bytes of the long answers that are being put together."""
        self._messages = {
            name: message(name)
            for name in ("PutResponse", "RangeResponse", "DeleteRangeResponse", "TxnResponse",
                         "ResponseHeader")
        }  # fmt: skip
        self.methods = [
            Method(
                "/etcdserverpb.KV/Range", "/v3/kv/range", "RangeRequest", self.range,
                quick=self.quick_range,
            ),
            Method(
                "/etcdserverpb.KV/Put", "/v3/kv/put", "PutRequest", self.put,
                quick=self.quick_put,
            ),
            Method(
                "/etcdserverpb.KV/DeleteRange", "/v3/kv/deleterange", "DeleteRangeRequest",
                self.delete,
            ),
            Method(
                "/etcdserverpb.KV/Txn", "/v3/kv/txn", "TxnRequest", self.txn,
                quick=self.quick_txn,
            ),
            Method(
                "/etcdserverpb.KV/Compact", "/v3/kv/compaction", "CompactionRequest", self.compact
            ),
        ]  # fmt: skip

    async def range(self, request: Any, timeout: float) -> Any:
        """Read keys: a long answer in parts, all of the revision of the first."""
        wanted = _range(request)

        async def ask(part: wire.Range, timeout: float) -> Result:
            if request.serializable:
                return await self._front.ask_any(part, timeout, lambda result: int(result[0]))
            return await self._front.ask_one(part, timeout)

        end_by = until(timeout)
        try:
            first = await ask(wanted, timeout)
        except errors.Refused as refused:
            if wanted.order == "key" or refused.text != errors.too_large().text:
                raise
            return await self._sorted(wanted, ask, end_by)
        return await self._all_parts(request, wanted, first, ask, end_by)

    def quick_range(self, request: Any, timeout: float, done: Done) -> Asking | None:
        """See `Method`."""
        wanted = _range(request)
        if request.serializable or wanted.order != "key":
            return None
        end_by = until(timeout)

        def answer(wanted: wire.Range, result: Result) -> Any:
            if result[4] is not None:
                return partial(
                    self._all_parts, request, wanted, result, self._front.ask_one, end_by
                )
            return _sort_cut(request, self._ranged(result, self._front.header(result[0])))

        return self._front.begin(wanted, timeout, answer, done)

    async def _all_parts(
        self, request: Any, wanted: wire.Range, first: Result, ask: Ask, end_by: float
    ) -> Any:
        """The whole answer to a range, of which this is the first part."""
        while True:
            answer = self._ranged([*first[:3], (), None], self._front.header(first[0]))

            def take(rows: list[Row], answer: Any = answer) -> None:
                answer.kvs.extend(map(key_value, rows))

            try:
                answer.more = await self._gather(wanted, first, ask, end_by, take)
            except errors.Refused as refused:
                left = end_by - time.monotonic()
                if wanted.revision or refused.text != errors.compacted().text or left <= 0:
                    raise
            else:
                return _sort_cut(request, answer)
            first = await ask(wanted, left)  # (so much was written meanwhile: all of it anew)

    async def _sorted(self, wanted: wire.Range, ask: Ask, end_by: float) -> Any:
        """The answer to a range that is too long for the servers to sort."""
        by_key = msgspec.structs.replace(
            wanted, order="key", backward=False, limit=0, keys_only=False
        )
        first = await ask(by_key, max(0.001, end_by - time.monotonic()))
        rows: list[Row] = []
        await self._gather(by_key, first, ask, end_by, rows.extend)
        rows.sort(key=_BY[wanted.order], reverse=wanted.backward)
        kept = rows[: wanted.limit] if wanted.limit else rows
        if wanted.keys_only:
            kept = [(row[0], b"", *row[2:]) for row in kept]
        answer = [*first[:2], len(kept) < len(rows), kept, None]
        return self._ranged(answer, self._front.header(first[0]))

    async def _gather(
        self, wanted: wire.Range, first: Result, ask: Ask, end_by: float,
        take: Callable[[list[Row]], None],
    ) -> bool:  # fmt: skip
        """Read a range part by part; whether there is more beyond its limit. Raises `Refused`."""
        revision, _, more, rows, rest = first
        at, number, size = wanted.revision or revision, 0, 0
        try:
            while True:
                part = sum(len(row[0]) + len(row[1]) + _ROW_BYTES for row in rows)
                size += part
                self._gathered += part
                if size > _MAX_ANSWER:
                    raise errors.answer_too_large(size, _MAX_ANSWER)
                if self._gathered > _MOST_GATHERED:
                    raise errors.too_many_requests()
                take(rows)
                number += len(rows)
                if rest is None or (wanted.limit and number >= wanted.limit):
                    return more or rest is not None
                assert wanted.end is not None  # (what comes in parts is in the order of keys)
                key, end = (wanted.key, rest) if wanted.backward else (rest, wanted.end)
                following = msgspec.structs.replace(
                    wanted, key=key, end=end, revision=at,
                    limit=wanted.limit - number if wanted.limit else 0,
                )  # fmt: skip
                left = max(0.001, end_by - time.monotonic())
                _, _, more, rows, rest = await ask(following, left)
        finally:
            self._gathered -= size

    def _ranged(self, result: Result, header: Any) -> Any:
        _, count, more, rows, _ = result
        return self._messages["RangeResponse"](
            header=header, kvs=map(key_value, rows), more=more, count=count
        )

    async def put(self, request: Any, timeout: float) -> Any:
        """Write a key."""
        put = _put_alone(request)
        return self._put_answer(put, await self._front.ask_one(put, timeout))

    def quick_put(self, request: Any, timeout: float, done: Done) -> Asking:
        """See `Method`."""
        return self._front.begin(_put_alone(request), timeout, self._put_answer, done)

    def _put_answer(self, _put: wire.PutItem, result: Result) -> Any:
        return self._written(result, self._front.header(result[0]))

    def _written(self, result: Result, header: Any) -> Any:
        previous = None if result[1] is None else key_value(result[1])
        return self._messages["PutResponse"](header=header, prev_kv=previous)

    async def delete(self, request: Any, timeout: float) -> Any:
        """Delete keys."""
        result = await self._front.ask_one(_delete(request), timeout)
        return self._deleted(result, self._front.header(result[0]))

    def _deleted(self, result: Result, header: Any) -> Any:
        return self._messages["DeleteRangeResponse"](
            header=header, deleted=result[1], prev_kvs=map(key_value, result[2] or ())
        )

    async def txn(self, request: Any, timeout: float) -> Any:
        """Compare, and do the one or the other."""
        txn = _txn_alone(request)
        if wire.is_read(txn) and _serializable(request):
            result = await self._front.ask_any(txn, timeout, lambda result: int(result[1]))
        else:
            result = await self._front.ask_one(txn, timeout)
        return self._txn_answer(request, txn, result)

    def quick_txn(self, request: Any, timeout: float, done: Done) -> Asking | None:
        """See `Method`."""
        txn = _txn_alone(request)
        if wire.is_read(txn) and _serializable(request):
            return None
        return self._front.begin(txn, timeout, partial(self._txn_answer, request), done)

    def _txn_answer(self, request: Any, txn: wire.Txn, result: Result) -> Any:
        return self._transacted(request, txn, result, self._front.header(result[1]))

    def _transacted(self, request: Any, txn: wire.Txn, result: Result, header: Any) -> Any:
        succeeded, _, results = result
        answer = self._messages["TxnResponse"](header=header, succeeded=succeeded)
        branch = txn.then if succeeded else txn.otherwise
        asked = request.success if succeeded else request.failure
        for one, operation, each in zip(asked, branch, results, strict=True):
            response = answer.responses.add()
            match operation:
                case wire.Txn():
                    header = self._inner_header(0)  # as etcd: there is one, and it is empty
                    inner = self._transacted(one.request_txn, operation, each, header)
                    response.response_txn.CopyFrom(inner)
                case wire.Range():
                    header = self._inner_header(each[0])
                    ranged = _sort_cut(one.request_range, self._ranged(each, header))
                    response.response_range.CopyFrom(ranged)
                case wire.PutItem():
                    header = self._inner_header(each[0])
                    response.response_put.CopyFrom(self._written(each, header))
                case _:
                    header = self._inner_header(each[0])
                    response.response_delete_range.CopyFrom(self._deleted(each, header))
        return answer

    def _inner_header(self, revision: int) -> Any:
        return self._messages["ResponseHeader"](revision=revision)

    async def compact(self, request: Any, timeout: float) -> Any:
        """Forget history before a revision."""
        if request.revision < 0:
            raise errors.compacted()
        compacted, now = await self._front.ask(
            wire.Compact(min(request.revision, _MOST)), REVISION, timeout=timeout
        )
        errors.accepted(compacted)
        return message("CompactionResponse")(header=self._front.header(now[0]))
