"""Who leads, and by which promises."""

from __future__ import annotations

from collections.abc import Iterable

from paxon.actors import Ballot, ServerId
from paxon.actors.messages import P1A, P1B, PeerMessage
from tests.books.count import CountBooks
from tests.predicates import require

__all__ = ["PromiseBooks"]


class PromiseBooks(CountBooks):
    """The part of `tests.invariants.ClusterWatch` that is about phase 1."""

    def __init__(self, servers: Iterable[ServerId], members: Iterable[ServerId] = ()) -> None:
        """`members` are those of the first epoch, by default all servers."""
        super().__init__(servers, members)
        self._leading: set[Ballot] = set()
        """Ballots in which somebody was heard to lead."""
        self._campaigns: dict[Ballot, int] = {}
        """Per ballot from which slot on its candidate has to know what was accepted."""
        self._promises: dict[Ballot, dict[ServerId, dict[int, set[int]]]] = {}
        """Per ballot and acceptor the pieces of its promise: from which slot to which."""

    def note_promise(self, server: ServerId, message: PeerMessage) -> None:
        """A candidate's question leaves a server, or a piece of an answer to one."""
        if isinstance(message, P1A):
            self._campaigns.setdefault(message.ballot, message.first_slot)
        elif isinstance(message, P1B):
            pieces = self._promises.setdefault(message.ballot, {}).setdefault(server, {})
            pieces.setdefault(message.first_slot, set()).add(message.next_slot)

    def _check_promises(self, leader: ServerId, ballot: Ballot) -> None:
        """The first that is heard of a new leader: were the promises for its ballot whole?"""
        self._leading.add(ballot)
        first = self._campaigns.get(ballot, 0)
        promised = [
            server
            for server, pieces in self._promises.get(ballot, {}).items()
            if server != leader and _is_whole(pieces, first)
        ]
        require(
            ballot.epoch < len(self.epochs)
            and self.epochs.is_majority(ballot.epoch, [*promised, leader]),
            "leads by whole promises",
            "server %d leads in %s, and only %s have promised all from slot %d on",
            leader, ballot, promised, first,
        )  # fmt: skip


def _is_whole(pieces: dict[int, set[int]], first: int) -> bool:
    """Whether pieces of a promise reach from slot `first` to the end."""
    reached, left = {first}, [first]
    while left:
        for following in pieces.get(left.pop(), ()):
            if following == 0:
                return True
            if following not in reached:
                reached.add(following)
                left.append(following)
    return False
