"""What the store may answer: the sequential specification, one small object per operation.

The state of a component is a tuple of values, one per key of the component, None if missing.
"""

from __future__ import annotations

from tests.linearizability.history import Operation

__all__ = ["Step", "State", "compile_step"]

State = tuple[bytes | None, ...]

Observation = tuple[int, bytes | None]
"""A key (by its index in the component) and the value that it must have had."""


class Step:
    """An operation, ready to be tried on a state."""

    __slots__ = (
        "blind",
        "covers",
        "index",
        "key",
        "kind",
        "needs",
        "new",
        "pure",
        "source",
        "told",
    )

    def __init__(self, source: Operation, index: int, key: int) -> None:
        self.source = source
        self.index = index
        """Its place in the order of calls, among those whose outcome is known (or is not)."""
        self.key = key
        """Which key of the component it touches; -1 for scans."""
        self.covers = 1 << key if key >= 0 else 0
        """Bits of the keys that its result depends on."""
        self.kind = source.kind
        self.told = source.returned is not None
        """Whether its result binds it."""
        self.needs: tuple[Observation, ...] = ()
        """Values that its result says the keys had."""
        self.pure = False
        """Its result says that it changed nothing: it may be tried greedily."""
        self.blind = source.kind in {"put", "delete"}
        """It succeeds in every state and leaves nothing of it, so it sees nothing."""
        self.new: bytes | None = None if source.kind == "delete" else source.value
        """The value it leaves behind; of append, the piece it adds."""

    @property
    def ident(self) -> int:
        """A number of its own among all of the search: negative if its outcome is unknown."""
        return self.index if self.told else -1 - self.index

    @property
    def twin(self) -> tuple[object, ...]:
        """Equal for operations that do the same and were told the same."""
        source = self.source
        return (self.told, self.kind, self.key, self.new, source.expected, source.result)

    def apply(self, state: State) -> State | None:
        """The state after it, or None if its result does not fit `state`."""
        for key, value in self.needs:
            if state[key] != value:
                return None
        if self.pure and self.kind != "cas":
            return state
        source = self.source
        old = state[self.key]
        new = self.new
        if self.kind == "append":
            new = (old or b"") + (self.new or b"")
            if self.told and source.result is not None and source.result != len(new):
                return None
        elif self.kind == "cas":
            if (old == source.expected) != (not self.told or source.result):
                return None
            if self.pure:
                return state
        elif self.kind == "delete" and self.told and source.result and old is None:
            return None
        return (*state[: self.key], new, *state[self.key + 1 :])


def compile_step(operation: Operation, index: int, keys: dict[str, int]) -> Step:
    """The step of an operation in the component whose keys are `keys` (name → index)."""
    scan = operation.kind == "scan"
    step = Step(operation, index, -1 if scan else keys[operation.key])
    if not step.told:
        return step
    if scan:
        step.pure = True
        step.needs = _scanned(operation, keys)
        step.covers = sum(1 << key for key, _ in step.needs)
    elif operation.kind == "get":
        step.pure = True
        assert not isinstance(operation.result, bool | int | tuple)
        step.needs = ((step.key, operation.result),)
    elif operation.kind == "cas":
        step.pure = not operation.result
        if operation.result:
            step.needs = ((step.key, operation.expected),)
    elif operation.kind == "delete":
        if operation.result is False:
            step.pure = True
            step.needs = ((step.key, None),)
        step.blind = operation.result is None
    return step


def _scanned(operation: Operation, keys: dict[str, int]) -> tuple[Observation, ...]:
    """What a scan's result says of each key that it covered, the missing ones included."""
    assert isinstance(operation.result, tuple)
    found = dict(operation.result)
    whole = operation.limit is None or len(found) < operation.limit
    last = max(found, default="")
    return tuple(
        (index, found.get(key))
        for key, index in keys.items()
        if key.startswith(operation.key) and (whole or key <= last)
    )


def well_formed_scan(operation: Operation, keys: dict[str, int]) -> str:
    """Why the result of a scan is wrong in every state; "" if it is possible in some."""
    assert isinstance(operation.result, tuple)
    found = [key for key, _ in operation.result]
    if found != sorted(set(found)):
        return "its keys are out of order, or one occurs twice"
    if operation.limit is not None and len(found) > operation.limit:
        return "it has more pairs than its limit"
    for key in found:
        if not key.startswith(operation.key):
            return f"{key!r} does not start with the prefix"
        if key not in keys:
            return f"nobody ever wrote {key!r}"
    return ""
