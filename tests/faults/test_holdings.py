"""The verdict on recipes bites: what must not be is found out, and what may be is not."""

from __future__ import annotations

import pytest

from paxon import Contender
from tests.faults.coordination import alone, membership, observed
from tests.faults.holdings import Holding, Holdings, LeaseBook, Told, once_and_in_order


def book(*found: Holding, written: list[int] | None = None) -> list[str]:
    return Holdings("a", list(found), written or []).complaints()


def test_one_after_the_other_is_right() -> None:
    assert not book(Holding(3, 1.0, 2.0), Holding(5, 2.0, 4.0), written=[3, 3, 5])


@pytest.mark.parametrize(
    ("found", "written", "complaint"),
    [
        ([Holding(3, 1.0, 2.0), Holding(5, 1.9, 3.0)], [], "while"),
        ([Holding(3, 1.0), Holding(5, 9.0, 10.0)], [], "while"),
        ([Holding(5, 1.0, 2.0), Holding(3, 2.0, 3.0)], [], "fences fell"),
        ([Holding(3, 1.0, 2.0), Holding(3, 2.0, 3.0)], [], "one fence"),
        ([Holding(3, 1.0, 2.0), Holding(5, 2.0, 3.0)], [3, 5, 3], "5 wrote, and then 3"),
        ([Holding(3, 1.0, 2.0)], [3, 4], "nobody held it"),
        ([Holding(n, 1.0, 2.0, places=2) for n in (3, 4, 5)], [], "while"),
        ([Holding(3, 1.0, 3.0, shares=True), Holding(4, 2.0, 3.0)], [], "while"),
        ([Holding(3, 1.0, 3.0), Holding(4, 2.0, 3.0, shares=True)], [], "while"),
    ],
)
def test_what_is_held_wrongly_is_found_out(
    found: list[Holding], written: list[int], complaint: str
) -> None:
    assert any(complaint in wrong for wrong in book(*found, written=written))


def test_so_many_as_may_and_readers_hold_together() -> None:
    for kind in ({"places": 2}, {"shares": True}):  # and whoever asked first may hold last
        assert not book(*(Holding(n, -n, 2.0, **kind) for n in (3, 4)))


def test_leases_that_end_early_or_never_are_found_out() -> None:
    leases = LeaseBook()
    leases.alive_until("a", 5.0)
    leases.alive_until("a", 4.0)
    assert leases.complaints() == ["a has not ended"]
    leases.ended["a"] = 4.9
    assert leases.complaints() == ["a ended 0.100 s early"]
    leases.ended["a"] = 5.0
    assert not leases.complaints()


def test_what_watchers_are_told_wrongly_is_found_out() -> None:
    events = [(1, "a"), (1, "b"), (2, "a")]
    right = Told(list(events))
    assert not once_and_in_order([right, Told(list(events))], events, 0)
    assert not once_and_in_order([right], events[:2], unknown=1)
    for told in ([*events, events[2]], events[:2], [*events[2:], *events[:2]], [*events, (3, "c")]):
        assert once_and_in_order([Told(told)], events, 0), told
    assert once_and_in_order([right, Told([*events, (3, "c")])], events, 9)
    assert once_and_in_order([Told(list(events), ended="compacted")], events, 0)


def test_what_an_observer_is_told_wrongly_is_found_out() -> None:
    one, two = (Contender(f"a/{n}", b"x", n, n) for n in (1, 2))
    assert not observed([None, one, None, two])
    assert observed([two, one])
    assert observed([one, one])
    assert observed([None, None])


def test_who_went_on_from_a_barrier_without_another_is_found() -> None:
    together = [(1.0, 3.0, True), (2.0, 3.1, True), (5.0, 6.0, False)]
    assert alone(together) == []
    assert len(alone([*together, (7.0, 8.0, True)])) == 1


def test_members_told_twice_or_out_of_order_are_found() -> None:
    one, other = Contender("m/1", b"", 1, 5), Contender("m/2", b"", 2, 9)
    assert membership([[], [one], [one, other], [other]]) == []
    assert len(membership([[one], [one]])) == 1
    assert len(membership([[other, one]])) == 1
