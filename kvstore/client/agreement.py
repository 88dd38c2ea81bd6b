"""Requests of clients to the cluster itself: its settings, another leader, its members.

Members are found and changed as docs/membership.md says. This module has the client's steps,
without I/O. Each such function is a generator: it yields whom to ask and what, receives the
answer, or None if none came in time, and returns what it found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from paxon.actors.ballot import MOST_SERVERS, Ballot, ServerId
from paxon.actors.execution.agreed import Change, Number
from paxon.actors.members import AskMembers, ChangeMembers, MemberChange, Members
from paxon.kvstore.client.leader_search import CoreRandom, LeaderSearch
from paxon.kvstore.client.sightings import Sightings
from paxon.kvstore.errors import ChangeRefused, InvalidRequest, OperationFailed, RequestTimeout

__all__ = [
    "Asked",
    "ClusterSettings",
    "MemberSteps",
    "Quest",
    "Question",
    "Tell",
    "add_member",
    "change_members",
    "check_changes",
    "check_new_values",
    "find_members",
    "replace_member",
    "decode_settings",
    "read_transfer",
    "settings_request",
    "transfer_request",
]

T = TypeVar("T")

Question: TypeAlias = AskMembers | ChangeMembers
Tell: TypeAlias = Callable[[str], object]
"""Is told, again and again, how a call stands: what would be so if it were given up now."""


class ClusterSettings(msgspec.Struct, frozen=True):
    """The settings that all servers of a cluster agree on."""

    values: dict[str, Number]
    """By name, the limits of the state machine among them. Times are seconds."""
    from_slot: int
    """The first slot of the log that was executed with these values."""

    def __getitem__(self, name: str) -> Number:
        return self.values[name]


_MOST_SETTINGS, _LONGEST_NAME = 100, 100
"""The most that servers take (`ChangeSettings`); they refuse more unread, without an answer."""


def check_new_values(new: Mapping[str, object]) -> dict[str, Number]:
    """New values that can be sent; which names and ranges there are is the servers' to know.

    Raises `InvalidRequest`.
    """
    checked: dict[str, Number] = {}
    if len(new) > _MOST_SETTINGS:
        raise InvalidRequest(f"{len(new)} settings at once: change at most {_MOST_SETTINGS}")
    for name, value in new.items():
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"there is no agreed setting {name!r:.80}: see `paxon settings`")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and abs(value) < 1 << 63):  # type: ignore[arg-type]
            raise InvalidRequest(f"{name} = {value!r}: must be a number below 2^63")
        checked[name] = value  # type: ignore[assignment]
    if not checked:
        raise InvalidRequest("name at least one setting and its new value")
    return checked


def settings_request(known: ClusterSettings | None, new: Mapping[str, Number]) -> bytes:
    """The body of a request: change what is `known` to `new`, or (both empty) only ask."""
    changed_at = 0 if known is None else known.from_slot - 1
    return msgspec.msgpack.encode(Change(changed_at, dict(new)))


def decode_settings(payload: bytes) -> ClusterSettings:
    """Decode the servers' answer. Raises `OperationFailed` if it cannot be decoded."""
    try:
        found: dict[str, Any] = msgspec.msgpack.decode(payload, type=dict[str, Any])
        limits, changed_at = found.pop("machine"), found.pop("changed_at")
        return ClusterSettings(found | limits, changed_at + 1)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise OperationFailed(f"the servers' answer is malformed: {error}") from None


def transfer_request(reign: Ballot, to: ServerId | None) -> bytes:
    """The body of a request to end a reign; `to`: who is to lead instead, None: anybody.

    Raises `InvalidRequest`.
    """
    if to is not None and (type(to) is not int or not 1 <= to <= MOST_SERVERS):
        raise InvalidRequest(f"to = {to!r}: must be the id of a server, from 1 to {MOST_SERVERS}")
    return msgspec.msgpack.encode((reign, to or 0))


def read_transfer(body: bytes) -> tuple[Ballot, ServerId]:
    """Decode such a request."""
    return msgspec.msgpack.decode(body, type=tuple[Ballot, ServerId])


class Asked(NamedTuple):
    """A step's wish: an answer from a server, or (without an address) a pause."""

    address: str
    question: Question
    seconds: float


MemberSteps: TypeAlias = Generator[Asked, Members | None, T]

_SILENT_SECONDS = 0.4
"""A server that has not answered for so long is left alone, and the next one is asked."""
_PAUSE_SECONDS = 0.05
"""Between two questions how a change stands."""
_LEVEL_SLOTS = 1000
"""A learner that is no further behind may become a voter. (Beyond 4,096 it would be refused.)"""
_NOTHING = AskMembers(0)


class Quest:
    """One call: whom to ask next, and until when."""

    def __init__(
        self,
        search: LeaderSearch,
        sightings: Sightings,
        random: CoreRandom,
        seconds: float,
        tell: Tell | None = None,
    ) -> None:
        self.random = random
        self.stands = "nothing was changed so far, for nobody has said who leads"
        self.seconds = seconds
        """What the caller has given it."""
        self.end = time.monotonic() + seconds
        self.heard = False
        """Whether anybody has answered at all."""
        self._search, self._sightings, self._tell = search, sightings, tell or bool
        self._next = search.target
        self._turn = 0

    def number(self) -> int:
        """A random number, by which a question or a change is known."""
        return 1 + self.random.getrandbits(62)

    def left(self) -> float:
        """Seconds that are left of it."""
        return self.end - time.monotonic()

    def ask(self, question: Question) -> MemberSteps[Members | None]:
        """Ask the leader, as far as it is known; while it is not, ask all servers in turn."""
        self._tell(self.stands)
        address = self._next
        said = yield Asked(address, question, max(1e-3, min(_SILENT_SECONDS, self.left())))
        servers = self._search.servers
        self._turn += 1
        self._next = servers[self._turn % len(servers)]
        if said is not None:
            self.heard = True
            known = {member.server: member.client for member in said.members if member.client}
            self._search.learn(known)
            self._next = known.get(said.leader, self._next)
        return said

    def pause(self) -> MemberSteps[None]:
        """Give them time."""
        yield Asked("", _NOTHING, max(0.0, min(_PAUSE_SECONDS, self.left())))

    def unanswered(self) -> RequestTimeout:
        """The error of a question that no leader answered."""
        if not self.heard:
            return self._sightings.unreachable(self._search.servers, self.seconds)
        return RequestTimeout(
            f"no server leads, or none is up to date, within {self.seconds:.3g} s: see what "
            "`paxon status` says",
            unknown=False,
        )


def find_members(quest: Quest, *, stale: bool = False) -> MemberSteps[Members]:
    """The members by the leader's word; `stale`: by that of any server in force."""
    while True:
        said = yield from quest.ask(AskMembers(quest.number()))
        if said is not None and (said.leads or (stale and said.identity)):
            return said
        if quest.left() <= 0:
            raise quest.unanswered()
        if said is not None:
            yield from quest.pause()


def change_members(quest: Quest, changes: tuple[MemberChange, ...]) -> MemberSteps[Members]:
    """Have the members changed so, at most once; returns what they are then.

    Raises `ChangeRefused` if that is so, `RequestTimeout` if nobody said how it ended.
    """
    found = yield from find_members(quest)
    while True:
        change = ChangeMembers(quest.number(), found.ballot, changes)
        said = yield from _until_settled(quest, change)
        if said.outcome == "done":
            return said
        if said.outcome == "refused":
            raise ChangeRefused(f"nothing was changed: {said.reason}")
        again = yield from find_members(quest)
        if again.epoch != found.epoch:
            raise ChangeRefused(
                "nothing was changed, for another change of the members came first: look at what "
                "`paxon member list` says now, and ask again if it is still wanted"
            )
        found = again  # another leads now, and the change has no effect, ever: begin anew


def _until_settled(quest: Quest, change: ChangeMembers) -> MemberSteps[Members]:
    """Ask for the change, and how it ended, until somebody knows."""
    question: Question = change
    quest.stands = (
        "the change of members is under way, and nobody has said how it ended: see what "
        "`paxon member list` says"
    )
    while quest.left() > 0:
        said = yield from quest.ask(question)
        question = AskMembers(quest.number(), change.id, change.ballot)
        if said is None:
            continue
        if said.outcome in ("done", "not done", "refused"):
            return said
        if said.outcome == "unknown" and said.leads and said.ballot == change.ballot:
            question = change  # it has not come: the same again, which the leader knows by its id
        yield from quest.pause()
    raise RequestTimeout(
        f"nobody said within {quest.seconds:.3g} s how the change of members ended: it may have "
        "been made, or may still be; see what `paxon member list` says"
    )


def _find_joiner(quest: Quest, server: ServerId, given: MemberChange) -> MemberSteps[MemberChange]:
    """The change for a server that waits to become a member, with all that was not given.

    With keys the members hear nothing of it. So it is asked itself, where it was said to serve
    clients, by the key that it was said to have.
    """
    while not given.incarnation:
        quest.stands = (
            f"nothing was changed so far, for no server {server} waits to become a member"
        )
        found = yield from find_members(quest)
        waiting = found.joining
        if given.client and given.key:
            own = yield Asked(given.client, AskMembers(quest.number()), _SILENT_SECONDS)
            waiting = waiting if own is None else (*own.joining, *waiting)
        joiner = next((member for member in waiting if member.server == server), None)
        held = next((member for member in found.members if member.server == server), None)
        if joiner is not None and (held is None or held.incarnation != joiner.incarnation):
            return msgspec.structs.replace(
                given,
                incarnation=joiner.incarnation,
                peer=given.peer or joiner.peer,
                client=given.client or joiner.client,
                key=given.key or joiner.key,
            )
        if quest.left() <= 2 * _PAUSE_SECONDS:
            raise ChangeRefused(
                f"nothing was changed: no server {server} waits to become a member; start it on an "
                f"empty directory with `paxon server --join ADDRESS --id {server} …`, and ask again"
                " (where servers have keys, with its public key)"
            )
        yield from quest.pause()
    return given


def add_member(quest: Quest, given: MemberChange, *, learner: bool = False) -> MemberSteps[Members]:
    """Make a server that waits a learner and, once it is level, a voter.

    May be asked for again where it stopped half way: a learner is promoted.
    """
    server = check_id(given.server)
    found = yield from find_members(quest)
    held = next((member for member in found.members if member.server == server), None)
    if held is not None and (held.voter or learner):
        what = "a voter" if held.voter else "a learner"
        raise ChangeRefused(
            f"nothing was changed: server {server} is {what} already; choose another id, or "
            f"`paxon member replace {server}` if its disk is lost"
        )
    if held is None:
        change = yield from _find_joiner(quest, server, given)
        found = yield from change_members(quest, (change,))
    if learner:
        return found
    while True:
        yield from _await_level(quest, server)
        try:
            return (yield from change_members(quest, (MemberChange("promote", server),)))
        except ChangeRefused:  # it was level, and a moment later it was not, or nobody heard it
            if quest.left() <= 0:
                raise
            yield from quest.pause()


def _await_level(quest: Quest, server: ServerId) -> MemberSteps[None]:
    """Wait until the leader has heard that this learner has nearly all that it has itself."""
    behind: float = math.inf
    learner = f"server {server} is a learner so far, and has no vote"
    quest.stands = learner
    while behind > _LEVEL_SLOTS:
        if quest.left() <= 0:
            how = "was not heard of late" if behind == math.inf else f"is {behind} slots behind"
            raise RequestTimeout(
                f"{learner}: after {quest.seconds:.3g} s it {how}; once it has caught up, "
                f"`paxon member promote {server}`, or `paxon member remove {server}`",
                unknown=False,
            )
        try:
            found = yield from find_members(quest)
        except RequestTimeout:  # what has been done already is what matters then
            continue
        behind = found.behind.get(server, math.inf)
        late = f": it is {behind} slots behind" if behind < math.inf else ""
        quest.stands = f"{learner}{late}; `paxon member add {server}` goes on from here"
        if behind > _LEVEL_SLOTS:
            yield from quest.pause()


def replace_member(quest: Quest, given: MemberChange) -> MemberSteps[Members]:
    """Give a lost directory's place to the one of the same id that waits."""
    check_id(given.server)
    found = yield from find_members(quest)
    if all(member.server != given.server for member in found.members):
        raise ChangeRefused(
            f"nothing was changed: server {given.server} is no member, so nobody can take its "
            f"place: `paxon member add {given.server}` makes it one"
        )
    change = yield from _find_joiner(quest, given.server, given)
    return (yield from change_members(quest, (change,)))


def check_id(server: ServerId) -> ServerId:
    """Raise `ChangeRefused` for the id of no server: nobody of that id will ever wait."""
    if not 1 <= server <= MOST_SERVERS:
        raise ChangeRefused(
            f"nothing was changed: server {server}: ids run from 1 to {MOST_SERVERS}"
        )
    return server


def check_changes(changes: object) -> tuple[MemberChange, ...]:
    """Changes that can be sent. Raises `InvalidRequest`."""
    if not isinstance(changes, tuple) or not changes:
        raise InvalidRequest("name at least one change: MemberChange(…)")
    for change in changes:
        if not isinstance(change, MemberChange):
            raise InvalidRequest(f"give MemberChange(…), not {change!r}")
        for field in msgspec.structs.fields(change):
            value = getattr(change, field.name)
            try:
                msgspec.convert(value, field.type)
                msgspec.msgpack.encode(value)
            except (msgspec.ValidationError, ValueError, OverflowError):
                raise InvalidRequest(f"MemberChange: {field.name} cannot be {value!r}") from None
    return changes
