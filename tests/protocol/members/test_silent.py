"""Clients that are silent outlive the replacement of every server (docs/design/addresses.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from paxon.actors.parts.membership import Membership
from paxon.kvstore.client.leader_search import LeaderSearch
from paxon.kvstore.client.watches.side import WatchSide
from tests.predicates import InvariantBroken
from tests.protocol.members.silent import SilentWorld
from tests.search.planted import Original, PlantedBug, planted

SEEDS = 30


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger.disable("paxon")
    yield
    logger.enable("paxon")


def test_who_is_silent_while_all_servers_are_replaced_is_answered_and_told() -> None:
    for seed in range(SEEDS):
        SilentWorld(seed).run()


def _untold(_original: Original) -> Any:
    def tell_clients(self: Membership, most: int = 0) -> None:
        self.places.take_untold(most)

    return tell_clients


def _asks_once(original: Original) -> Any:
    def lost(self: LeaderSearch, address: str, now: float) -> None:
        asked = dict(self._asked)
        original(self, address, now)
        self._asked = asked

    return lost


PLANTED = {
    planted("servers tell of no move unasked", "", (Membership, "tell_clients", _untold)): 0,
    planted("a client asks each address once", "", (LeaderSearch, "lost", _asks_once)): 2,
    planted(
        "a watch goes where nobody is any more", "",
        (WatchSide, "_connected", lambda _original: property(lambda self: ())),
    ): 101,
}  # fmt: skip
"""And the seed that tells; docs/planted-bugs.md has what each is."""


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_planted_in_what_silent_clients_rely_on_is_caught(bug: PlantedBug) -> None:
    with bug.apply(), pytest.raises(InvariantBroken, match="a silent client"):
        SilentWorld(PLANTED[bug]).run()
