"""Ready-made: a dict, a set, a list and counts, with the interfaces of `collections.abc`.

Use them as they are, for plain data, or say what is in them: `class Prices(ReplicatedDict[str,
float]): pass`. Each method is one command or query, however much it touches, but for those that
`collections.abc` makes of others, such as `|=` of two sets.
"""

from __future__ import annotations

from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    ValuesView,
)
from typing import Any, Generic, TypeVar, overload

from paxon.kvstore.objects.replicated import Replicated, command, query

__all__ = ["ReplicatedCounter", "ReplicatedDict", "ReplicatedList", "ReplicatedSet"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

_NOTHING: Any = object()


def _count(number: int) -> int:
    """A count that can be carried: one that cannot would keep all of them from being read."""
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError("a count has at most 64 bits, its sign included")
    return number


class _Container(Replicated, Generic[T]):
    """What all of these can."""

    _data: Any

    @query
    def __len__(self) -> int:
        return len(self._data)

    @query
    def __contains__(self, value: T) -> bool:
        return value in self._data

    @command
    def clear(self) -> None:
        """Take off all."""
        self._data.clear()


class ReplicatedDict(_Container[K], MutableMapping[K, V]):  # type: ignore[misc]
    """A dict on the servers; keys keep the order in which they came."""

    def __init__(self) -> None:
        self._data: dict[K, V] = {}

    @command
    def __setitem__(self, key: K, value: V) -> None:
        self._data[key] = value

    @command(raises=(KeyError,))
    def __delitem__(self, key: K) -> None:
        del self._data[key]

    @query(raises=(KeyError,))
    def __getitem__(self, key: K) -> V:
        return self._data[key]

    @query
    def copy(self) -> dict[K, V]:
        """All of it, as of one moment."""
        return self._data

    @query
    def _keys(self) -> list[K]:
        return list(self._data)

    @command
    def _update(self, new: dict[K, V]) -> None:
        self._data.update(new)

    @command(raises=(KeyError,))
    def _pop(self, key: K) -> V:
        return self._data.pop(key)

    @command(raises=(KeyError,))
    def popitem(self) -> tuple[K, V]:
        """Take off the last pair."""
        return self._data.popitem()

    @command
    def _setdefault(self, key: K, default: V) -> V:
        return self._data.setdefault(key, default)

    def __iter__(self) -> Iterator[K]:
        return iter(self._keys())

    def items(self) -> ItemsView[K, V]:
        """The pairs, as of one moment."""
        return self.copy().items()

    def values(self) -> ValuesView[V]:
        """The values, as of one moment."""
        return self.copy().values()

    def pop(self, key: K, default: Any = _NOTHING) -> Any:
        """Take off a key; its value, or the default if it is not there. Raises `KeyError`."""
        try:
            return self._pop(key)
        except KeyError:
            if default is _NOTHING:
                raise
            return default

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The key's value, set to `default` if it is not there."""
        return self._setdefault(key, default)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all these, in one command."""
        self._update(dict(other, **more))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.copy()!r})"


class ReplicatedSet(_Container[T], MutableSet[T]):  # type: ignore[misc]
    """A set on the servers, which keeps the order in which its elements came."""

    def __init__(self) -> None:
        self._data: dict[T, None] = {}

    @command
    def add(self, value: T) -> None:
        """Put it in, if it is not there."""
        self._data[value] = None

    @command
    def discard(self, value: T) -> None:
        """Take it off, if it is there."""
        self._data.pop(value, None)

    @command(raises=(KeyError,))
    def remove(self, value: T) -> None:
        """Take it off. Raises `KeyError` if it is not there."""
        del self._data[value]

    @command(raises=(KeyError,))
    def pop(self) -> T:
        """Take off the one that has been there for the longest. Raises `KeyError`."""
        if not self._data:
            raise KeyError("pop from an empty set")
        value = next(iter(self._data))
        del self._data[value]
        return value

    @command
    def _update(self, values: list[T]) -> None:
        self._data.update(dict.fromkeys(values))

    @query
    def _values(self) -> list[T]:
        return list(self._data)

    def __iter__(self) -> Iterator[T]:
        return iter(self._values())

    def update(self, *others: Iterable[T]) -> None:
        """Put all these in, in one command."""
        self._update([value for other in others for value in other])

    def copy(self) -> set[T]:
        """All of it, as of one moment."""
        return set(self._values())

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values()!r})"


class ReplicatedList(_Container[T], MutableSequence[T]):  # type: ignore[misc]
    """A list on the servers."""

    def __init__(self) -> None:
        self._data: list[T] = []

    @command(raises=(IndexError,))
    def _set(self, index: int, value: T) -> None:
        self._data[index] = value

    @command(raises=(IndexError,))
    def _delete(self, index: int) -> None:
        del self._data[index]

    @command(raises=(ValueError,))
    def _cut(self, start: int | None, stop: int | None, step: int | None) -> None:
        del self._data[start:stop:step]

    @command(raises=(ValueError,))
    def _replace(
        self, start: int | None, stop: int | None, step: int | None, values: list[T]
    ) -> None:
        self._data[start:stop:step] = values

    @query(raises=(IndexError,))
    def _get(self, index: int) -> T:
        return self._data[index]

    @query
    def copy(self) -> list[T]:
        """All of it, as of one moment."""
        return self._data

    @query
    def count(self, value: T) -> int:
        """How often it is there."""
        return self._data.count(value)

    @command
    def insert(self, index: int, value: T) -> None:
        """Put it in before this index."""
        self._data.insert(index, value)

    @command
    def append(self, value: T) -> None:
        """Put it at the end."""
        self._data.append(value)

    @command
    def _extend(self, values: list[T]) -> None:
        self._data.extend(values)

    @command(raises=(IndexError,))
    def pop(self, index: int = -1) -> T:
        """Take one off, by default the last. Raises `IndexError`."""
        return self._data.pop(index)

    @command(raises=(ValueError,))
    def remove(self, value: T) -> None:
        """Take off the first like it. Raises `ValueError`."""
        if value not in self._data:
            raise ValueError("it is not in the list")
        self._data.remove(value)

    @command
    def reverse(self) -> None:
        """Turn it round, in place."""
        self._data.reverse()

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self.copy()[index] if isinstance(index, slice) else self._get(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._replace(index.start, index.stop, index.step, list(value))
        else:
            self._set(index, value)

    def __delitem__(self, index: int | slice) -> None:
        if isinstance(index, slice):
            self._cut(index.start, index.stop, index.step)
        else:
            self._delete(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ReplicatedList):
            other = other.copy()
        return self.copy() == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[T]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self.copy())

    def extend(self, values: Iterable[T]) -> None:
        """Put all these at the end, in one command."""
        self._extend(list(values))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Where it is first. Raises `ValueError`."""
        found = self.copy()
        return found.index(value, start, len(found) if stop is None else stop)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.copy()!r})"


class ReplicatedCounter(_Container[K], Mapping[K, int]):  # type: ignore[misc]
    """Counts by key on the servers, like `collections.Counter`: what is not there counts 0."""

    def __init__(self) -> None:
        self._data: dict[K, int] = {}

    @command(raises=(OverflowError,))
    def increment(self, key: K, by: int = 1) -> int:
        """Add to a count; what it is then. Raises `OverflowError` beyond 64 bits, as all do."""
        count = self._data[key] = _count(self._data.get(key, 0) + by)
        return count

    @command(raises=(OverflowError,))
    def __setitem__(self, key: K, value: int) -> None:
        self._data[key] = _count(value)

    @command
    def __delitem__(self, key: K) -> None:
        self._data.pop(key, None)

    @command(raises=(OverflowError,))
    def _update(self, counts: dict[K, int]) -> None:
        self._data.update({key: _count(self._data.get(key, 0) + by) for key, by in counts.items()})

    @overload
    def get(self, key: K) -> int | None: ...

    @overload
    def get(self, key: K, default: T) -> int | T: ...

    @query
    def get(self, key: K, default: Any = None) -> Any:
        """A count; if there is none, the default."""
        return self._data.get(key, default)

    @query
    def __getitem__(self, key: K) -> int:
        return self._data.get(key, 0)

    @query
    def total(self) -> int:
        """The sum of all counts."""
        return sum(self._data.values())

    @query
    def most_common(self, n: int | None = None) -> list[tuple[K, int]]:
        """The highest counts first, all of them or `n`; equal ones in the order of their coming."""
        return sorted(self._data.items(), key=lambda pair: -pair[1])[: n and max(n, 0)]

    @query
    def copy(self) -> dict[K, int]:
        """All of it, as of one moment."""
        return self._data

    def __iter__(self) -> Iterator[K]:
        return iter(self.copy())

    def items(self) -> ItemsView[K, int]:
        """The pairs, as of one moment."""
        return self.copy().items()

    def values(self) -> ValuesView[int]:
        """The counts, as of one moment."""
        return self.copy().values()

    def update(self, counted: Mapping[K, int] | Iterable[K]) -> None:
        """Add counts, or one for each element, in one command."""
        counts: dict[K, int] = {}
        pairs = counted.items() if isinstance(counted, Mapping) else ((key, 1) for key in counted)
        for key, by in pairs:
            counts[key] = counts.get(key, 0) + by
        self._update(counts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.copy()!r})"
