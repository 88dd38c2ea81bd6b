"""Conditions of transactions: `kv.modified("motto") == 7`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, Protocol, TypeAlias, runtime_checkable

from paxon.kvstore.client.arguments import check_value
from paxon.kvstore.client.calls.keys import check_number
from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.store.operations import Compare, Relation, Target

__all__ = ["Compared", "Condition", "Conditions", "Guard", "compares_of"]


class Condition:
    """A condition on a key, or on each key of a range."""

    __slots__ = ("compare",)

    def __init__(self, compare: Compare) -> None:
        self.compare = compare

    def __repr__(self) -> str:
        compare = self.compare
        keys = repr(compare.key) if compare.end is None else f"{compare.key!r} to {compare.end!r}"
        return f"<Condition: {compare.target} of {keys} {compare.relation} {compare.operand!r}>"

    def __bool__(self) -> NoReturn:
        raise InvalidRequest(
            "a condition is true or false only in the store: put it into if_=[…] of a transaction"
        )


@runtime_checkable
class Guard(Protocol):
    """Anything that stands for conditions: a lock that is held, for one."""

    def conditions(self) -> Sequence[Condition]:
        """All of them have to hold."""


Conditions: TypeAlias = Sequence[Condition | Guard]


class Compared:
    """One side of a comparison: a value, version, revision or lease, of a key or a range."""

    __slots__ = ("_span", "_target")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, target: Target, span: tuple[bytes, bytes | None]) -> None:
        self._target: Target = target
        self._span = span

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._condition("=", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._condition("!=", other)

    def __lt__(self, other: bytes | str | int) -> Condition:
        return self._condition("<", other)

    def __gt__(self, other: bytes | str | int) -> Condition:
        return self._condition(">", other)

    def __le__(self, other: int) -> Condition:
        return self._condition("<", self._number(other), 1)

    def __ge__(self, other: int) -> Condition:
        return self._condition(">", self._number(other), -1)

    def _number(self, other: object) -> int:
        if self._target == "value":
            raise InvalidRequest("values are compared with ==, !=, < and > only")
        return check_number(other, self._target)

    def _condition(self, relation: Relation, other: object, more: int = 0) -> Condition:
        key, end = self._span
        operand: bytes | int
        if self._target == "value":
            if other is None:
                raise InvalidRequest("no value is None: of a missing key the version is 0")
            operand = check_value(other)
        else:
            operand = check_number(other, self._target) + more
        return Condition(Compare(key, self._target, relation, operand, end))


def compares_of(conditions: Conditions) -> list[Compare]:
    """As the store takes them. Raises `InvalidRequest` for anything else."""
    if type(conditions) is not list and (
        not isinstance(conditions, Sequence) or isinstance(conditions, str | bytes)
    ):
        raise InvalidRequest(f"if_ has to be a list of conditions, not {conditions!r}")
    compares: list[Compare] = []
    for condition in conditions:
        if isinstance(condition, Condition):
            compares.append(condition.compare)
        elif isinstance(condition, Guard):
            compares += [each.compare for each in condition.conditions()]
        else:
            raise InvalidRequest(
                "a condition is something held, such as a lock's, or written like kv.modified(key) "
                f"== 7, not {condition!r}"
            )
    return compares
