"""Bugs to plant in the comparing of hashes; runs in which a state machine goes wrong find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from paxon.actors import PaxosServer
from paxon.actors.execution import application
from paxon.actors.execution.application import Application
from paxon.actors.execution.digests import Comparison, SnapshotCheck
from paxon.actors.messages import SnapshotOffer
from paxon.actors.parts.comparing import Comparing
from paxon.actors.parts.snapshotting import Snapshotting
from paxon.kvstore.objects import calls
from tests.invariants import InvariantBroken
from tests.search.planted import Original, PlantedBug, planted
from tests.simulation.about.divergence import (
    CASES,
    answer_with_texts_that_differ,
    forget_to_be_deterministic,
    hunt,
    offer_snapshots_that_differ,
    plans,
    raise_errors_that_hold_addresses,
    restart_from_snapshots,
)
from tests.simulation.plan import Plan

__all__ = ["DIGESTS", "DigestBug"]


@dataclass(frozen=True)
class DigestBug:
    """A bug, and the run that shows it; it demands something, which does not hold then."""

    bug: PlantedBug
    in_plan: Callable[[Plan], None]

    def hunt(self, seeds: int = 4) -> tuple[int, str] | tuple[()]:
        """How many plans it took, and what was found; () if none of so many shows it."""
        for number, plan in enumerate(plans(3, seeds), 1):
            with self.bug.apply():
                try:
                    self.in_plan(plan)
                except (AssertionError, InvariantBroken) as error:
                    return number, str(error) or "who was wrong was not found, or another was"
        return ()


DIGESTS: list[DigestBug] = []


def _excepted(original: Original) -> Any:
    def stop(self: Comparing, verdict: Any) -> None:
        server = self._host
        assert isinstance(server, PaxosServer)
        if server.role != "leader":
            original(self, verdict)

    return stop


DIGESTS.append(
    DigestBug(
        planted(
            "a leader excepts itself",
            "a leader whose state a majority contradicts goes on",
            (Comparing, "_stop_as_contradicted", _excepted),
        ),
        lambda plan: hunt(plan, CASES["the leader"][1], forget_to_be_deterministic),
    )
)


def _forgetful(original: Original) -> Any:
    def restore(self: Application, image: bytes) -> None:
        original(self, image)
        self.chain.begin(self.chain.version, self.executed)

    return restore


DIGESTS.append(
    DigestBug(
        planted(
            "a snapshot without its hash",
            "whoever starts from a snapshot begins a chain of hashes of its own",
            (Application, "restore", _forgetful),
        ),
        restart_from_snapshots,
    )
)


def _whole(_original: Original) -> Any:
    return lambda _entry, reply, _part: (reply.status, reply.payload)


DIGESTS.append(
    DigestBug(
        planted(
            "hash the text of an error",
            "what a state machine raised is hashed as it reads, addresses and all",
            (application, "_comparable", _whole),
        ),
        raise_errors_that_hold_addresses,
    )
)

DIGESTS.append(
    DigestBug(
        planted(
            "count the texts of calls that failed",
            "a reply counts for its length, whatever errors of a replicated class it tells of",
            (calls, "counted", lambda _original: len),
        ),
        answer_with_texts_that_differ,
    )
)


def _unopposed(original: Original) -> Any:
    def heard(self: SnapshotCheck, *answer: Any) -> None:
        original(self, *answer)
        self.objections.clear()

    return heard


DIGESTS.append(
    DigestBug(
        planted(
            "a contradicted snapshot is taken over",
            "who is brought up by a snapshot does not heed that a voter holds another hash for it",
            (SnapshotCheck, "heard", _unopposed),
        ),
        offer_snapshots_that_differ,
    )
)


def _unasked(original: Original) -> Any:
    def check(self: Snapshotting, offer: SnapshotOffer, sender: int) -> None:
        all_vouch = structs.replace(offer, vouched=self._host._others)
        original(self, all_vouch, sender)

    return check


DIGESTS.append(
    DigestBug(
        planted(
            "nobody is asked about a snapshot",
            "who is brought up by a snapshot takes its sender's word for it",
            (Snapshotting, "_check", _unasked),
        ),
        offer_snapshots_that_differ,
    )
)


def _ever(_original: Original) -> Any:
    def vouchers(self: Comparison, slot: int) -> tuple[int, ...]:
        return tuple(self.equal)

    return vouchers


DIGESTS.append(
    DigestBug(
        planted(
            "vouched for by who once agreed",
            "a leader names those as vouchers for its snapshot that had its hash some time before",
            (Comparison, "vouchers", _ever),
        ),
        offer_snapshots_that_differ,
    )
)
