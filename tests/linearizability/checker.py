"""The verdict on a history: split it by keys, search each part, explain what cannot be ordered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from tests.linearizability.explain import explain
from tests.linearizability.history import Operation
from tests.linearizability.model import well_formed_scan
from tests.linearizability.search import Budget, Found, search

__all__ = ["check", "Result", "Verdict"]


class Verdict(Enum):
    """What is known about a history. `UNDECIDED` is no kind of OK."""

    OK = "linearizable"
    VIOLATION = "not linearizable"
    UNDECIDED = "undecided"


@dataclass(slots=True)
class Result:
    """A verdict and, unless it is OK, what a reader needs to know."""

    verdict: Verdict
    explanation: str = ""
    operations: tuple[Operation, ...] = ()
    """After a violation: few operations that cannot be put in any order together."""


def check(
    history: Iterable[Operation], seconds: float = 60.0, configurations: int = 2_000_000
) -> Result:
    """Decide whether `history`, on an empty store, is linearizable.

    Keys are independent of one another, so each is searched by itself; a scan joins all the keys
    that it covers. Gives up with `UNDECIDED` after `seconds` or, for a bound that is the same on
    every machine, after `configurations` (each takes up to a few hundred bytes of memory).
    """
    operations = list(history)
    budget = Budget(seconds, configurations)
    undecided: list[str] = []
    for keys, part in components(operations):
        index = {key: i for i, key in enumerate(keys)}
        wrong = _impossible_scan(part, index)
        if wrong is not None:
            return wrong
        found = search(part, index, budget)
        if found is Found.NONE:
            core, text = explain(part, index)
            return Result(Verdict.VIOLATION, text, core)
        if found is Found.GAVE_UP:
            undecided.append(f"{len(part)} operations on {_names(keys)}")
    if undecided:
        text = f"undecided within {seconds} s and {configurations} configurations: "
        return Result(Verdict.UNDECIDED, text + "; ".join(undecided))
    return Result(Verdict.OK)


def _names(keys: Sequence[str]) -> str:
    shown = ", ".join(repr(key) for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more keys"


def _impossible_scan(part: list[Operation], index: dict[str, int]) -> Result | None:
    for operation in part:
        if operation.kind == "scan" and operation.returned is not None:
            why = well_formed_scan(operation, index)
            if why:
                text = f"no store can answer this, for {why}:\n  client {operation.client}: "
                return Result(Verdict.VIOLATION, text + str(operation), (operation,))
    return None


def components(operations: Sequence[Operation]) -> list[tuple[list[str], list[Operation]]]:
    """Independent parts: keys (sorted) with the operations on them, smallest part first."""
    keys = sorted({o.key for o in operations if o.kind != "scan"})
    parent = {key: key for key in keys}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    covered: dict[str, str] = {}
    """Per scanned prefix one of its keys; a prefix without keys stands for itself."""
    for prefix in sorted({o.key for o in operations if o.kind == "scan"}):
        below = [key for key in keys if key.startswith(prefix)]
        for key in below[1:]:
            parent[root(key)] = root(below[0])
        covered[prefix] = below[0] if below else ""
    parts: dict[str, tuple[list[str], list[Operation]]] = {}
    for key in keys:
        parts.setdefault("k" + root(key), ([], []))[0].append(key)
    for operation in operations:
        if operation.kind != "scan":
            name = "k" + root(operation.key)
        elif covered[operation.key]:
            name = "k" + root(covered[operation.key])
        else:
            name = "s" + operation.key
        parts.setdefault(name, ([], []))[1].append(operation)
    return sorted(parts.values(), key=lambda part: len(part[1]))
