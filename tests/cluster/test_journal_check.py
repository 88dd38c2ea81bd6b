"""The check of the fault tests finds what it has to find."""

from __future__ import annotations

import pytest

from tests.cluster.journal import Operation, check_journal


def append(token: bytes, began: float, ended: float, length: int) -> Operation:
    return Operation(0, began, token, ended, length)


def read(value: bytes, began: float, ended: float) -> Operation:
    return Operation(0, began, b"", ended, len(value), value)


GOOD = [append(b"a;", 0, 1, 2), append(b"b;", 2, 5, 4), read(b"a;", 3, 4), read(b"a;b;", 6, 7)]


def test_a_good_history_passes() -> None:
    check_journal(GOOD, b"a;b;")
    unknown = Operation(0, 2, b"c;")
    check_journal([*GOOD, unknown], b"a;b;c;")
    check_journal([*GOOD, unknown], b"a;b;")


@pytest.mark.parametrize(
    ("final", "operations", "complaint"),
    [
        (b"a;", [append(b"a;", 0, 1, 2), append(b"b;", 2, 3, 4)], "lost"),
        (b"a;b;a;", [append(b"a;", 0, 1, 2)], "twice"),
        (b"b;a;", [append(b"a;", 0, 1, 2), append(b"b;", 2, 3, 4)], "lost or elsewhere"),
        (b"a;", [append(b"a;", 0, 1, 2), read(b"", 2, 3)], "did not see"),
        (b"a;", [read(b"x;", 0, 1)], "never was"),
        (b"a;b;", [read(b"a;b;", 0, 1), read(b"a;", 2, 3)], "did not see"),
    ],
)
def test_a_bad_history_does_not(final: bytes, operations: list[Operation], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_journal(operations, final)
