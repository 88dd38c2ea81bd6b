"""Few operations that cannot be ordered, out of a history that cannot.

Every step here keeps the proof sound: an operation may be left out only if it changed nothing (a
read), and a write may at most be demoted to "may have happened, or not". What still has no order
then shows the fault by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.linearizability.history import Operation
from tests.linearizability.search import Budget, Found, search

__all__ = ["explain"]

SECONDS = 5.0
"""What an explanation may cost: it gets as short as that allows."""

CONFIGURATIONS = 20_000
"""What one trial may cost; a trial that costs more is taken for "could be fine"."""


def explain(part: Sequence[Operation], keys: dict[str, int]) -> tuple[tuple[Operation, ...], str]:
    """The operations of a small contradiction and a text about them for people."""
    overall = Budget(SECONDS, 1 << 62)

    def contradictory(operations: Sequence[Operation]) -> bool:
        if overall.spent:
            return False
        return search(operations, keys, Budget(SECONDS, CONFIGURATIONS)) is Found.NONE

    operations = _shortest_prefix(part, contradictory)
    operations = _without_reads(operations, contradictory)
    operations = _demoted(operations, contradictory)
    operations = _without_idle(operations, contradictory)
    operations.sort(key=lambda o: o.call)
    return tuple(operations), _text(operations)


def _cut(part: Sequence[Operation], end: float) -> list[Operation]:
    """The history as it looked at `end`: what had not returned by then was of unknown outcome."""
    kept = []
    for o in part:
        if o.call > end:
            continue
        pending = o.returned is None or o.returned > end
        if pending and o.kind in {"get", "scan"}:
            continue
        kept.append(replace(o, returned=None, result=None) if pending else o)
    return kept


def _shortest_prefix(
    part: Sequence[Operation], contradictory: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    ends = sorted(o.returned for o in part if o.returned is not None)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if contradictory(_cut(part, ends[middle])):
            high = middle
        else:
            low = middle + 1
    prefix = _cut(part, ends[high])
    return prefix if contradictory(prefix) else list(part)


def _shrink(
    operations: list[Operation],
    may_go: Callable[[Operation], bool],
    instead: Callable[[Operation], list[Operation]],
    contradictory: Callable[[Sequence[Operation]], bool],
) -> list[Operation]:
    """Replace as many as possible of those that may go, in ever smaller chunks, oldest first."""
    candidates = [o for o in operations if may_go(o)]
    size = max(1, len(candidates) // 2)
    while candidates:
        kept: list[Operation] = []
        for start in range(0, len(candidates), size):
            chunk = candidates[start : start + size]
            ids = {id(o) for o in chunk}
            trial: list[Operation] = []
            for o in operations:
                trial.extend(instead(o) if id(o) in ids else [o])
            if contradictory(trial):
                operations = trial
            else:
                kept.extend(chunk)
        if size == 1:
            break
        candidates = kept
        size = max(1, size // 2)
    return operations


def _without_reads(
    operations: list[Operation], contradictory: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    return _shrink(operations, _changed_nothing, lambda _: [], contradictory)


def _changed_nothing(o: Operation) -> bool:
    return o.kind in {"get", "scan"} or (o.returned is not None and o.result is False)


def _demoted(
    operations: list[Operation], contradictory: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    return _shrink(
        operations,
        lambda o: o.returned is not None and not _changed_nothing(o),
        lambda o: [replace(o, returned=None, result=None)],
        contradictory,
    )


def _without_idle(
    operations: list[Operation], contradictory: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    """Leave out optional writes that leave nothing of what was seen: they excuse nothing."""
    seen: list[bytes] = []
    for o in operations:
        if o.kind == "get" and isinstance(o.result, bytes):
            seen.append(o.result)
        elif o.kind == "cas" and o.expected is not None:
            seen.append(o.expected)
        elif isinstance(o.result, tuple):
            seen.extend(value for _, value in o.result)

    def idle(o: Operation) -> bool:
        return o.returned is None and not any((o.value or b"") in value for value in seen)

    trial = [o for o in operations if not idle(o)]
    return trial if contradictory(trial) else operations


def _text(operations: Sequence[Operation]) -> str:
    start = min(o.call for o in operations)
    width = max(len(str(o.client)) for o in operations)
    lines = [
        "no order of these operations, each within its interval, explains all their results",
        "(those marked '?' may have taken effect at any time after their call, or never):",
    ]
    for o in operations:
        end = "     …    " if o.returned is None else f"{o.returned - start:10.6f}"
        lines.append(f"  [{o.call - start:10.6f} {end}] client {o.client:>{width}}: {o}")
    return "\n".join(lines)
