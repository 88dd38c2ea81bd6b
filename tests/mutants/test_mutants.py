"""The sweep itself: which mutants there are, and that one is noticed and another not."""

from __future__ import annotations

import pytest

from paxon.actors import Ballot
from paxon.actors.records.reads import Grants
from tests.mutants.__main__ import _outcome, modules
from tests.mutants.checks import Check
from tests.mutants.operators import Mutant, mutants

LEASES = "paxon.actors.records.reads"


def mutant(text: str) -> Mutant:
    (found,) = [m for m in mutants(LEASES) if m.name == f"records.reads:Grants.{text}"]
    return found


def test_each_mutant_has_a_name_of_its_own() -> None:
    names = [m.name for m in mutants(LEASES)]
    assert len(set(names)) == len(names) >= 20
    assert LEASES in modules()


@pytest.mark.parametrize(
    ("text", "killer"),
    [
        ("hold: now < self.until -> now <= self.until", "the end"),
        ("grant: drop self._stored = needed", ""),
        ("forget: drop self._stored = self._longest", ""),
    ],
)
def test_a_mutant_is_noticed_by_what_it_breaks_and_gone_afterwards(text: str, killer: str) -> None:
    def ends() -> bool:
        grants = Grants()
        grants.grant(Ballot(1, 1), 1.0, 0.0, 5.0)
        return not grants.hold(6.0)

    checks = [Check("the beginning", lambda: Grants().until < 0), Check("the end", ends)]
    found, ran, _ = _outcome(mutant(text), checks, 5.0)
    assert (found, ran) == (killer, 2)
    assert ends()


def test_a_mutant_that_hangs_or_dies_counts_as_noticed() -> None:
    def die() -> bool:
        raise SystemExit

    checks = [Check("a death", die)]
    assert _outcome(mutant("grant: drop self._stored = needed"), checks, 5.0)[0] == "a death"
