"""Linearizability by its definition: try every order. Only for a handful of operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from tests.linearizability.generate import PlainStore
from tests.linearizability.history import Operation

__all__ = ["has_order"]


def has_order(history: Sequence[Operation]) -> bool:
    """Whether some order of the operations, each within its interval, explains all results."""
    return _extend(PlainStore(), list(history))


def _extend(store: PlainStore, left: list[Operation]) -> bool:
    if all(o.returned is None for o in left):
        return True
    first_return = min(o.returned for o in left if o.returned is not None)
    for number, operation in enumerate(left):
        if operation.call > first_return:
            continue
        after = copy.deepcopy(store)
        result = after.apply(operation)
        told = operation.returned is not None
        if told and not _same(operation, result):
            continue
        if _extend(after, left[:number] + left[number + 1 :]):
            return True
    return False


def _same(operation: Operation, result: object) -> bool:
    if operation.kind in {"put", "append", "delete"} and operation.result is None:
        return True
    return operation.result == result
