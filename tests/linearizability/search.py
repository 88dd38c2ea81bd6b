"""The search for an order: Wing & Gong's, with Lowe's memoised configurations.

A *configuration* is the set of operations placed so far and the state that they lead to. Depth
first, each step places one more operation among those that were called before the first return of
an operation not yet placed. A configuration seen before is not searched again.

What keeps hard histories tractable, none of which excludes an order that matters:

- An operation whose result says that it changed nothing (a get, a failed cas, …) is placed as soon
  as it fits, without branching: where it can stand later, it can stand now.
- A value that some operation still has to observe and that nobody can write again is not
  overwritten; and a value that the next observer cannot see or see grow is not written if nothing
  can replace it in time.
- What does not concern the operation that has to be placed next waits (just in time, as Lowe has
  it): writers of other keys, unless a scan ties the keys together.
- An operation of unknown outcome is used only directly before one that can observe it, and a
  configuration that used more of them than another equal one is not searched.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from enum import Enum
from time import perf_counter

from tests.linearizability.chains import Chains, make_alike
from tests.linearizability.history import Operation
from tests.linearizability.model import State, Step, compile_step

__all__ = ["Budget", "Found", "search"]


class Found(Enum):
    """How a search ended."""

    ORDER = "an order that explains all results"
    NONE = "there is no such order"
    GAVE_UP = "the budget ran out"


class Budget:
    """What may be spent on a check, over all its components."""

    def __init__(self, seconds: float, configurations: int) -> None:
        self._deadline = perf_counter() + seconds
        self._left = configurations

    def spend(self) -> bool:
        """Count one configuration; False if there is nothing left."""
        self._left -= 1
        return self._left > 0 and (self._left & 255 != 0 or perf_counter() < self._deadline)

    @property
    def spent(self) -> bool:
        return self._left <= 0 or perf_counter() >= self._deadline


class _Node:
    """A configuration on the current path, with the choices not tried yet."""

    __slots__ = ("choices", "due", "front", "held", "placed", "state", "used")

    def __init__(
        self, state: State, *, front: int, placed: int, used: int, due: int, held: int
    ) -> None:
        self.front = front
        """All known operations below this index are placed."""
        self.placed = placed
        """Bit i: operation front + i is placed."""
        self.used = used
        """Bit i: operation i of those with unknown outcome was used."""
        self.due = due
        """Position, in the order of returns, of the first operation not placed."""
        self.held = held
        """Bit k: key k was just written by an operation of unknown outcome, and not seen yet."""
        self.state = state
        self.choices: list[Step] = []
        """The best choice last."""


class _Key:
    """Per key the operations that observe it and those that write it, by index."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.observers: list[tuple[int, bytes | None]] = []
        self.by_value: dict[bytes | None, list[int]] = {}
        self.writers: list[Step] = []
        self.unknown: list[Step] = []
        self.sceptic = False
        """Something here observes what a key is *not*, or how long it is."""
        self.chains = Chains((), ())
        self._producers: dict[bytes | None, tuple[int, int]] = {}

    def observe(self, index: int, value: bytes | None) -> None:
        self.observers.append((index, value))
        self.by_value.setdefault(value, []).append(index)

    def find_chains(self, known: Sequence[Step]) -> None:
        """Take the observed values apart, once all operations are known."""
        writers = [*self.writers, *self.unknown]
        compared = {
            step.source.expected
            for step in (*known, *self.unknown)
            if step.kind == "cas" and step.key == self.number
        }
        values = dict.fromkeys([*self.by_value, *compared])
        self.chains = Chains(writers, values)
        make_alike(writers, self.chains, values)

    def producers(self, value: bytes | None) -> tuple[int, int]:
        """(Last known operation, bits of the unknown ones) that may leave exactly `value`."""
        cached = self._producers.get(value)
        if cached is None:
            last = max((w.index for w in self.writers if _may_leave(w, value)), default=-1)
            bits = sum(1 << u.index for u in self.unknown if _may_leave(u, value))
            cached = self._producers[value] = (last, bits)
        return cached


def _may_leave(writer: Step, value: bytes | None) -> bool:
    if writer.kind == "append":
        return value is not None and value.endswith(writer.new or b"")
    return writer.new == value


def _may_lead_to(held: bytes | None, value: bytes | None) -> bool:
    """Whether appends alone might turn `held` into `value`."""
    return held is None or held == value or (value is not None and value.startswith(held))


class _Search:
    def __init__(self, operations: Sequence[Operation], keys: dict[str, int]) -> None:
        called = sorted(operations, key=lambda o: o.call)
        known = [o for o in called if o.returned is not None]
        self.known = [compile_step(o, i, keys) for i, o in enumerate(known)]
        self.keys = [_Key(number) for number in range(len(keys))]
        for step in self.known:
            self._index(step)
        unknown = [o for o in called if o.returned is None and o.kind not in {"get", "scan"}]
        self.unknown = self._useful([compile_step(o, 0, keys) for o in unknown])
        for key in self.keys:
            key.find_chains(self.known)
        self.returns = [_returned(s) for s in self.known]
        self.by_return = sorted(range(len(self.known)), key=self.returns.__getitem__)
        calls = [s.source.call for s in self.known]
        self.candidates = [bisect_right(calls, r) for r in self.returns]
        """Per operation, how many known ones were called before it returned …"""
        unknown_calls = [s.source.call for s in self.unknown]
        self.unknown_candidates = [bisect_right(unknown_calls, r) for r in self.returns]
        """… and how many of unknown outcome."""
        self.scans = any(s.kind == "scan" for s in self.known)
        self.seen: dict[tuple[int, int, int, State], list[int]] = {}

    def _index(self, step: Step) -> None:
        for key, value in step.needs:
            self.keys[key].observe(step.index, value)
        if step.pure:
            if step.kind == "cas":
                self.keys[step.key].sceptic = True
            return
        self.keys[step.key].writers.append(step)
        result = step.source.result
        if step.kind in {"delete", "append"} and result is not None:
            self.keys[step.key].sceptic = True

    def _useful(self, unknown: Iterable[Step]) -> list[Step]:
        """Those of unknown outcome that some result might show, numbered anew."""
        useful: list[Step] = []
        steps = list(unknown)
        seen: list[set[bytes | None]] = [set(key.by_value) for key in self.keys]
        for step in steps:
            if step.kind == "cas":  # it writes only if it finds this value
                seen[step.key].add(step.source.expected)
        for step in steps:
            key = self.keys[step.key]
            if not key.sceptic and not _visible(step, seen[step.key]):
                continue
            step.index = len(useful)
            useful.append(step)
            key.unknown.append(step)
        return useful

    # --- the walk --------------------------------------------------------------------------------

    def run(self, budget: Budget) -> Found:
        root = _Node((None,) * len(self.keys), front=0, placed=0, used=0, due=0, held=0)
        path: list[_Node] = []
        node: _Node | None = root
        while True:
            if node is not None:
                if not self._settle(node):
                    return Found.ORDER
                if self._is_new(node):
                    if not budget.spend():
                        return Found.GAVE_UP
                    node.choices = self._choices(node)
                    path.append(node)
            while path and not path[-1].choices:
                path.pop()
            if not path:
                return Found.NONE
            node = self._place(path[-1], path[-1].choices.pop())

    def _settle(self, node: _Node) -> bool:
        """Place what changes nothing and fits; False once every known operation is placed."""
        known, by_return = self.known, self.by_return
        while True:
            while node.placed & 1:
                node.placed >>= 1
                node.front += 1
            if node.front >= len(known):
                return False
            while (i := by_return[node.due]) < node.front or node.placed >> (i - node.front) & 1:
                node.due += 1
            before = node.placed
            waiting = self._waiting(node)
            while waiting:
                low = waiting & -waiting
                waiting ^= low
                step = known[node.front + low.bit_length() - 1]
                if step.pure and step.apply(node.state) is not None:
                    node.placed |= low
                    if step.key < 0 or node.held >> step.key & 1:
                        node.held = 0
            if node.placed == before:
                return True

    def _waiting(self, node: _Node) -> int:
        """Bits, from `front`, of the known operations that may be placed next."""
        width = self.candidates[self.by_return[node.due]] - node.front
        return ~node.placed & ((1 << width) - 1)

    def _is_new(self, node: _Node) -> bool:
        key = (node.front, node.placed, node.held, node.state)
        uses = self.seen.get(key)
        if uses is None:
            self.seen[key] = [node.used]
            return True
        if any(used & node.used == used for used in uses):
            return False
        uses[:] = [used for used in uses if used & node.used != node.used]
        uses.append(node.used)
        return True

    def _place(self, node: _Node, step: Step) -> _Node | None:
        """The configuration after placing a writer, or None if that leads nowhere."""
        state = step.apply(node.state)
        if state is None:
            return None
        if step.told:
            placed, used = node.placed | 1 << (step.index - node.front), node.used
        else:
            placed, used = node.placed, node.used | 1 << step.index
        held = 0 if step.told else node.held | 1 << step.key
        child = _Node(state, front=node.front, placed=placed, used=used, due=node.due, held=held)
        key = self.keys[step.key]
        old, new = node.state[step.key], state[step.key]
        if old != new and self._still_needed(child, key, old):
            return None
        if not self._can_be_seen(child, key, new) or self._breaks_chain(child, key, step, old):
            return None
        return child

    def _breaks_chain(self, node: _Node, key: _Key, step: Step, old: bytes | None) -> bool:
        """Whether a value yet to be observed can never come to be after this writer.

        It is a link of that value's only chain and stands elsewhere; or it has replaced the
        beginning of that chain.
        """
        chains = key.chains
        new = node.state[step.key]
        for value, end in chains.of_writer.get(step.ident, ()):
            if new != value[:end] and self._unseen(node, key, value):
                return True
        if old is not None:
            for value in chains.of_prefix.get(old, ()):
                if not _may_lead_to(new, value) and self._unseen(node, key, value):
                    return True
        return False

    def _unseen(self, node: _Node, key: _Key, value: bytes | None) -> bool:
        """Whether somebody has yet to observe `value`."""
        observers = key.by_value.get(value, ())
        return any(
            not node.placed >> (observers[position] - node.front) & 1
            for position in range(bisect_left(observers, node.front), len(observers))
        )

    def _still_needed(self, node: _Node, key: _Key, value: bytes | None) -> bool:
        """Somebody has yet to observe `value`, and nobody can write it any more."""
        if not self._unseen(node, key, value):
            return False
        last, unknown = key.producers(value)
        if unknown & ~node.used:
            return False
        # `last` may be placed already: then look for another one that is not.
        if last < node.front:
            return True
        return not any(
            _may_leave(w, value) and not self._is_placed(node, w.index)
            for w in key.writers[bisect_left(key.writers, node.front, key=_index_of) :]
        )

    def _is_placed(self, node: _Node, index: int) -> bool:
        return index < node.front or bool(node.placed >> (index - node.front) & 1)

    def _can_be_seen(self, node: _Node, key: _Key, value: bytes | None) -> bool:
        """Whether the next observer of the key can come to see what it saw."""
        observers = key.observers
        for position in range(bisect_left(observers, node.front, key=_first), len(observers)):
            index, seen = observers[position]
            if node.placed >> (index - node.front) & 1:
                continue
            return _may_lead_to(value, seen) or self._replaceable(node, key, index, seen)
        return True

    def _replaceable(self, node: _Node, key: _Key, observer: int, seen: bytes | None) -> bool:
        """Whether a put, delete or cas can still start over toward `seen` before `observer`."""
        end = self.candidates[observer]
        for position in range(
            bisect_left(key.writers, node.front, key=_index_of), len(key.writers)
        ):
            writer = key.writers[position]
            if writer.index >= end:
                break
            if writer.kind == "append" or node.placed >> (writer.index - node.front) & 1:
                continue
            if _may_lead_to(writer.new, seen):
                return True
        end = self.unknown_candidates[observer]
        return any(
            u.index < end
            and u.kind != "append"
            and not node.used >> u.index & 1
            and _may_lead_to(u.new, seen)
            for u in key.unknown
        )

    def _choices(self, node: _Node) -> list[Step]:
        """The writers that may come next, the most promising last."""
        due = self.by_return[node.due]
        relevant = self._relevant_keys(node, due)
        choices: dict[tuple[object, ...], Step] = {}
        """Of twins one stands for all: of those told the first to return, else the first called."""
        returns = self.returns
        waiting = self._waiting(node)
        while waiting:
            low = waiting & -waiting
            waiting ^= low
            step = self.known[node.front + low.bit_length() - 1]
            if step.pure or not relevant >> step.key & 1 or not self._may_follow(node, step):
                continue
            other = choices.setdefault(step.twin, step)
            if returns[step.index] < returns[other.index]:
                choices[step.twin] = step
        for step in self.unknown[: self.unknown_candidates[due]]:
            if (
                not node.used >> step.index & 1
                and relevant >> step.key & 1
                and self._may_follow(node, step)
            ):
                choices.setdefault(step.twin, step)
        wanted = dict(self.known[due].needs)

        def rank(step: Step) -> tuple[bool, bool, float]:
            wants = step.key in wanted and _may_leave(step, wanted[step.key])
            returned = returns[step.index] if step.told else float("inf")
            return (wants, step.told and step.kind == "append", -returned)

        return sorted(choices.values(), key=rank)

    def _relevant_keys(self, node: _Node, due: int) -> int:
        """Bits of the keys on which a writer may have to stand before the operation due first.

        Those are its own keys. What happens to the others can wait until it is placed, unless a
        scan that may stand before it, too, saw both.
        """
        relevant = self.known[due].covers
        if not self.scans:
            return relevant
        waiting = self._waiting(node)
        scans = []
        while waiting:
            low = waiting & -waiting
            waiting ^= low
            step = self.known[node.front + low.bit_length() - 1]
            if step.kind == "scan":
                scans.append(step.covers)
        before = 0
        while before != relevant:
            before = relevant
            for covers in scans:
                if covers & relevant:
                    relevant |= covers
        return relevant

    def _may_follow(self, node: _Node, step: Step) -> bool:
        """Keep operations of unknown outcome directly before what observes them.

        That is a writer that is not blind or, for several keys at once, a scan.
        """
        if not node.held:
            return True
        if node.held == 1 << step.key:
            return not step.blind
        if step.told or not self.scans:
            return False
        return not (step.blind and node.held >> step.key & 1)


def _visible(step: Step, seen: set[bytes | None]) -> bool:
    """Whether any observed value may stem from an operation of unknown outcome."""
    if step.kind == "append":
        piece = step.new or b""
        return any(value is not None and piece in value for value in seen)
    if step.new is None:
        return True
    return any(value is not None and value.startswith(step.new) for value in seen)


def _returned(step: Step) -> float:
    assert step.source.returned is not None
    return step.source.returned


def _index_of(step: Step) -> int:
    return step.index


def _first(pair: tuple[int, bytes | None]) -> int:
    return pair[0]


def search(operations: Sequence[Operation], keys: dict[str, int], budget: Budget) -> Found:
    """Look for an order of `operations`, which touch only `keys` (name → index)."""
    return _Search(operations, keys).run(budget)
