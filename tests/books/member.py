"""Books over changes of members: what is told of them, and what an epoch leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

from paxon.actors import Ballot, ServerId
from tests.books.promise import PromiseBooks
from tests.predicates import require

__all__ = ["MemberBooks"]


class MemberBooks(PromiseBooks):
    """The part of `tests.invariants.ClusterWatch` that is about epochs (docs/membership.md)."""

    def on_change_told(self, request: int, outcome: str) -> None:
        """Somebody who asked for other members is told how that ended."""
        found = self.epochs.begun_by(request)
        if outcome != "done":
            self.epochs.denied[request] = outcome
            require(
                found is None, "changes end as told",
                "change %d, which led to %s, is told as %r", request, found, outcome,
            )  # fmt: skip
            return
        require(found is not None, "changes end as told", "change %d never was", request)
        assert found is not None
        heard = found.majority == 1 or any(b.epoch >= found.epoch for b in self._leading)
        require(
            heard, "changes end as told",
            "change %d is told as done, and nobody leads in epoch %d yet", request, found.epoch,
        )  # fmt: skip
        if found is not self.epochs.last:
            return  # (then a leader of its epoch had all of it chosen that came after)
        level = [
            member.server for member in found.members if member.voter
            and self.epochs.entered.get((member.server, member.incarnation), 0) >= found.epoch
        ]  # fmt: skip
        require(
            len(level) >= found.majority, "changes end as told",
            "change %d is told as done, and of %s only servers %s know of it",
            request, found, level,
        )  # fmt: skip

    def on_rows_kept(self, server: ServerId, left: Sequence[tuple[int, Ballot]]) -> None:
        """What a disk holds above the seal and of an epoch before, once the seal is durable."""
        require(not left, "void above the seal", "server %d's disk still has %s", server, left)

    def on_read(self, server: ServerId, ballot: Ballot) -> None:
        """A server that has promised `ballot` answers a read that is to be up to date."""
        require(
            ballot.leader == server
            and (ballot in self._leading or self.epochs.voters(ballot.epoch) == (server,)),
            "reads by leaders", "server %d, which has promised %s, answers a read", server, ballot,
        )  # fmt: skip
