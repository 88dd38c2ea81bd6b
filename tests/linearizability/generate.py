"""Histories that are linearizable by construction: a real store, asked by clients that overlap."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.linearizability.history import Kind, Operation, Pairs

__all__ = ["Shape", "generate", "PlainStore"]


class PlainStore:
    """A dictionary with the store's operations: the specification in its simplest form."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def apply(self, operation: Operation) -> bytes | bool | int | Pairs | None:
        """Execute at once and return the result."""
        key, old = operation.key, self.values.get(operation.key)
        match operation.kind:
            case "get":
                return old
            case "put":
                self.values[key] = operation.value or b""
                return None
            case "append":
                self.values[key] = (old or b"") + (operation.value or b"")
                return len(self.values[key])
            case "delete":
                return self.values.pop(key, None) is not None
            case "cas":
                if old != operation.expected:
                    return False
                self.values[key] = operation.value or b""
                return True
            case "scan":
                found = sorted(i for i in self.values.items() if i[0].startswith(key))
                return tuple(found[: operation.limit])


@dataclass(slots=True)
class Shape:
    """What a generated history looks like."""

    operations: int = 100
    clients: int = 5
    keys: int = 3
    kinds: tuple[Kind, ...] = ("get", "put", "append", "delete", "cas")
    unknown: float = 0.0
    """Share of operations whose outcome no client learns."""
    distinct: bool = True
    """Every written value is another one; else there are only three."""


def generate(random: Random, shape: Shape) -> list[Operation]:
    """A history in which each operation takes effect at one instant within its interval."""
    store = PlainStore()
    history: list[Operation] = []
    busy: dict[int, tuple[Operation, bool]] = {}
    """Per client the operation under way and whether it took effect."""
    now = 0.0
    while len(history) < shape.operations or busy:
        now += 1.0
        client = random.randrange(shape.clients)
        if client not in busy:
            if len(history) < shape.operations:
                operation = _draw(random, shape, store, client=client, number=len(history), now=now)
                history.append(operation)
                busy[client] = (operation, False)
            continue
        operation, done = busy[client]
        if not done:
            if random.random() < shape.unknown:
                if random.random() < 0.5:
                    store.apply(operation)  # it happens, yet the client never hears of it
                del busy[client]
                continue
            operation.result = store.apply(operation)
            busy[client] = (operation, True)
            continue
        operation.returned = now
        del busy[client]
    return history


def _draw(
    random: Random, shape: Shape, store: PlainStore, *, client: int, number: int, now: float
) -> Operation:
    kind = random.choice(shape.kinds)
    key = f"k{random.randrange(shape.keys)}"
    text = f"<{number}>" if shape.distinct else random.choice(["a", "b", "c"])
    operation = Operation(client, "get", key, now)
    operation.kind = kind
    if kind in {"put", "append", "cas"}:
        operation.value = text.encode()
    if kind == "cas" and random.random() < 0.7:
        operation.expected = store.values.get(key)
    if kind == "scan":
        operation.key = random.choice(["", "k", key])
        operation.limit = random.choice([None, None, 1, 3])
    return operation
