"""Histories: what clients asked, when, and what they were told; and their JSON-lines form.

docs/checks/histories.md describes the form for other checkers.
"""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO, get_args

__all__ = ["Operation", "Kind", "Recorder", "HistoryError", "load_history", "dump_history"]

Kind = Literal["get", "put", "append", "delete", "cas", "scan"]

Pairs = tuple[tuple[str, bytes], ...]
"""What a scan found: keys and values, in the order of keys."""


SHOWN = 60
"""Longer values lose their middle in explanations."""


class HistoryError(ValueError):
    """A line of a history file is not as docs/checks/histories.md describes; the text names it."""


@dataclass(slots=True)
class Operation:
    """One call of a client: a closed interval of time in which it took effect, if it did."""

    client: int
    """Who called; only for people who read an explanation."""
    kind: Kind
    key: str
    """For a scan the prefix."""
    call: float
    """When the client called, on one clock for all clients (any unit, only the order counts)."""
    returned: float | None = None
    """When the client knew the outcome; None if it never did: took effect later, or never."""
    value: bytes | None = None
    """What put, append and cas write."""
    expected: bytes | None = None
    """What cas compares with; None means that the key is missing."""
    limit: int | None = None
    """The most pairs that a scan returns; None: all."""
    result: bytes | bool | int | Pairs | None = None
    """get: the value, None if missing. cas: whether it wrote. scan: pairs. delete: whether the key
    was there, append: the new length, or None where the client was not told."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise HistoryError(f"{self.kind} of {self.key!r} by client {self.client}: {problem}")

    def _problem(self) -> str:
        if self.kind not in get_args(Kind):
            return f"the kinds are {', '.join(get_args(Kind))}"
        if self.returned is not None and self.returned < self.call:
            return f"it returned at {self.returned}, before its call at {self.call}"
        if (self.kind in {"put", "append", "cas"}) != (self.value is not None):
            return "put, append and cas carry a value, the others none"
        if self.returned is None:
            return ""
        if self.kind == "cas" and not isinstance(self.result, bool):
            return "the result of a returned cas is true or false"
        if self.kind == "scan" and not isinstance(self.result, tuple):
            return "the result of a returned scan is a list of pairs"
        if self.kind == "get" and not isinstance(self.result, bytes | None):
            return "the result of a returned get is a value or null"
        return ""

    def __str__(self) -> str:
        arguments = [self.key] if self.kind != "scan" else [self.key + "*"]
        if self.kind == "cas":
            arguments.append(_short(self.expected))
        if self.value is not None:
            arguments.append(_short(self.value))
        if self.limit is not None:
            arguments.append(f"limit {self.limit}")
        if self.returned is None:
            outcome = "?"
        elif isinstance(self.result, tuple):
            outcome = "{" + ", ".join(f"{k}: {_short(v)}" for k, v in self.result) + "}"
        elif self.result is None and self.kind != "get":
            outcome = "ok"
        else:
            outcome = _short(self.result)
        return f"{self.kind}({', '.join(arguments)}) → {outcome}"


def _short(value: object) -> str:
    """A value for people: long ones lose their middle."""
    if value is None:
        return "missing"
    if isinstance(value, bytes):
        text = repr(value)[1:]
        return text if len(text) <= SHOWN else f"{text[:28]}…{text[-28:]} ({len(value)} bytes)"
    return str(value)


# --- JSON lines ----------------------------------------------------------------------------------


def _to_json(value: bytes | None) -> Any:
    """UTF-8 text as a string, anything else as {"base64": …}."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _from_json(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        return base64.b64decode(value["base64"], validate=True)
    raise HistoryError(f"a value is a string, null or {{'base64': …}}, not {value!r}")


def _line(operation: Operation) -> dict[str, Any]:
    line: dict[str, Any] = {
        "client": operation.client,
        "op": operation.kind,
        "key": operation.key,
    }
    if operation.kind == "cas":
        line["expected"] = _to_json(operation.expected)
    if operation.value is not None:
        line["value"] = _to_json(operation.value)
    if operation.limit is not None:
        line["limit"] = operation.limit
    line["call"] = operation.call
    line["return"] = operation.returned
    if operation.returned is not None:
        result = operation.result
        if isinstance(result, tuple):
            line["result"] = [[key, _to_json(value)] for key, value in result]
        elif isinstance(result, bool | int):
            line["result"] = result
        else:
            line["result"] = _to_json(result)
    return line


def _operation(line: dict[str, Any]) -> Operation:
    known = {"client", "op", "key", "expected", "value", "limit", "call", "return", "result"}
    strange = sorted(set(line) - known)
    if strange:
        raise HistoryError(f"unknown field {strange[0]!r}")
    result = line.get("result")
    if isinstance(result, list):
        result = tuple((str(key), _from_json(value) or b"") for key, value in result)
    elif not isinstance(result, bool | int):
        result = _from_json(result)
    return Operation(
        client=line["client"],
        kind=line["op"],
        key=line["key"],
        call=line["call"],
        returned=line["return"],
        value=_from_json(line.get("value")),
        expected=_from_json(line.get("expected")),
        limit=line.get("limit"),
        result=result,
    )


def dump_history(operations: Iterable[Operation], file: TextIO) -> None:
    """Write one line per operation."""
    lines = (json.dumps(_line(operation), ensure_ascii=False) for operation in operations)
    file.writelines(line + "\n" for line in lines)


def load_history(file: TextIO) -> list[Operation]:
    """Read what `dump_history` wrote. Raises `HistoryError` with the number of the bad line."""
    return list(_load(file))


def _load(file: TextIO) -> Iterator[Operation]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise HistoryError("a line holds one JSON object")
            yield _operation(line)
        except KeyError as error:
            raise HistoryError(f"line {number}: the field {error} is missing") from error
        except (ValueError, TypeError) as error:
            raise HistoryError(f"line {number}: {error}") from error


# --- recording -----------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Collects operations of many clients; threads may share it.

    Times come from `clock`, nudged upward so that no two are equal: what returned before another
    was called then always precedes it.
    """

    clock: Callable[[], float]
    """The same clock for all clients, in seconds."""
    _operations: list[Operation] = field(default_factory=list)
    _last: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(
        self,
        client: int,
        kind: Kind,
        key: str,
        value: bytes | None = None,
        *,
        expected: bytes | None = None,
        limit: int | None = None,
    ) -> Operation:
        """Note that a client calls now; its outcome is unknown until `ok` or `failed`."""
        with self._lock:
            operation = Operation(client, kind, key, self._tick(), None, value, expected, limit)
            self._operations.append(operation)
        return operation

    def ok(self, operation: Operation, result: bytes | bool | int | Pairs | None = None) -> None:
        """The client was told now that the operation took effect, with this result."""
        with self._lock:
            operation.result = result
            operation.returned = self._tick()
            operation.__post_init__()

    def failed(self, operation: Operation) -> None:
        """It surely did not take effect and never will: strike it out."""
        with self._lock:
            self._operations = [other for other in self._operations if other is not operation]

    def operations(self) -> list[Operation]:
        """What was recorded so far, in the order of calls."""
        with self._lock:
            return list(self._operations)

    def _tick(self) -> float:
        now = self.clock()
        if now <= self._last:
            now = _next_after(self._last)
        self._last = now
        return now


def _next_after(value: float) -> float:
    """A nanosecond later, or the next float where these lie further apart."""
    return max(value + 1e-9, math.nextafter(value, math.inf))
