"""From one epoch to the next: a change that a leader was asked for, and a seal that is known.

Plain data (docs/membership.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import structs

from paxon.actors.ballot import MOST_SERVERS, ServerId, in_list
from paxon.actors.environment import NEVER
from paxon.actors.members import ChangeMembers, Member, MemberChange
from paxon.actors.messages import P1A, Sealed
from paxon.actors.records.configuration import Configuration
from paxon.actors.records.places import can_be_dialled
from paxon.transport import TransportError, same_place
from paxon.transport.keys import check_key

__all__ = ["Changing", "Opening", "Rehearsing", "members_after", "members_wanted"]


@dataclass
class Changing:
    """The next configuration, until its CONFIG is proposed (M5)."""

    members: tuple[Member, ...]
    request: int
    """The random number of the change: the next configuration keeps it."""
    until: float = NEVER
    """When it is given up if its rehearsal has come to nothing, monotonic seconds."""
    keys: Mapping[ServerId, str] = field(default_factory=dict)
    """By which each server is known before it."""
    reach: set[ServerId] = field(default_factory=set)
    """Those that are to vote and have heard a majority of them."""

    @property
    def voters(self) -> list[ServerId]:
        """The servers that are to vote."""
        return [member.server for member in self.members if member.voter]

    def why_given_up(self) -> str:
        """For whoever wanted the change."""
        return (
            f"{in_list(self.voters)} do not reach each other, or not where they are to be: look at "
            "their addresses, their keys and what is between them"
        )

    def enough(self, server: ServerId, incarnation: int, heard: Iterable[ServerId]) -> bool:
        """Whether one of those that are to vote, and a majority with it, has heard one (M18)."""
        voters = {member.server: member.incarnation for member in self.members if member.voter}
        majority = len(voters) // 2 + 1
        reached = (voters.keys() & {server, *heard}) - _rekeyed(self.members, self.keys)
        if voters.get(server) != incarnation or server not in reached or len(reached) < majority:
            return False
        self.reach.add(server)
        return len(self.reach) >= majority


class Rehearsing:
    """One server's part in a rehearsal: whom of those that are to vote it has reached."""

    def __init__(self, request: int, leader: ServerId, members: Iterable[Member]) -> None:
        """`leader` is to be told."""
        self.request = request
        self.leader = leader
        self._voters = {member.server: member.incarnation for member in members if member.voter}
        self.heard: set[ServerId] = set()

    def hear(self, server: ServerId, incarnation: int) -> bool:
        """Somebody has answered; whether that is news."""
        new = self._voters.get(server) == incarnation and server not in self.heard
        if new:
            self.heard.add(server)
        return new


def members_wanted(
    request: ChangeMembers,
    configuration: Configuration,
    alive: Collection[ServerId],
    fit: Mapping[ServerId, int],
    told: Collection[ServerId],
    *,
    keys: Mapping[ServerId, str],
) -> tuple[Member, ...] | str:
    """The members then; or, in a sentence, why that cannot be, or not now (M17).

    `alive` were heard of late; `fit` are those of them that are level, by their directories; `told`
    those that have said in this reign how far they are. `keys`: by which each server is known here.
    """
    if not 0 < request.id < 1 << 63:
        return "the number of a change must be from 1 to below 2^63"
    members = members_after(configuration, request.changes, keys)
    if isinstance(members, str):
        return members
    living = [c.server for c in request.changes if c.kind == "replace" and c.server in alive]
    if living:
        return f"{in_list(living)}: its old directory is in use: stop that server first"
    level = {server: number for server, number in fit.items() if server in told}
    locked_out = _rekeyed(members, keys)
    left = {server: number for server, number in fit.items() if server not in locked_out}
    if not unserved(members, fit) and unserved(members, left):
        return (
            f"{in_list(sorted(locked_out))} would answer again once restarted with the new key, "
            "and the others that are up are no majority until then: change one key at a time, "
            "while all are up; of two servers change the files, and restart both"
        )
    return unserved(members, fit) or _unfit(request, members, level) or members


def _rekeyed(members: Iterable[Member], keys: Mapping[ServerId, str]) -> set[ServerId]:
    """Voters that `keys`, if there are any, know by another key than they are to have.

    Nobody else hears them until they are restarted with it. (One alone needs nobody else.)
    """
    voters = [member for member in members if member.voter]
    if not keys or len(voters) == 1:
        return set()
    return {m.server for m in voters if m.key and m.key != keys.get(m.server)}


def _unfit(request: ChangeMembers, members: Iterable[Member], fit: Mapping[ServerId, int]) -> str:
    """Why one should not get its vote yet, though a majority could go on without it."""
    promoted = {change.server for change in request.changes if change.kind == "promote"}
    new = [member for member in members if member.server in promoted]
    late = [member.server for member in new if fit.get(member.server) != member.incarnation]
    if not late:
        return ""
    return f"{_silent(late)}: it gets its vote once it has told that it has caught up"


def _silent(servers: list[ServerId]) -> str:
    was, is_ = ("was", "is") if len(servers) == 1 else ("were", "are")
    return f"{in_list(servers)} {was} not heard of late or {is_} far behind"


def members_after(
    configuration: Configuration, changes: Iterable[MemberChange], keys: Mapping[ServerId, str]
) -> tuple[Member, ...] | str:
    """The members after these changes; or, in a sentence, why that cannot be (M17)."""
    members = {member.server: member for member in configuration.members}
    named: set[ServerId] = set()
    for change in changes:
        if change.server in named:
            return f"server {change.server} is named twice: say once what becomes of it"
        named.add(change.server)
        obstacle = _obstacle(configuration, change)
        if obstacle:
            return obstacle
        if change.kind == "remove":
            del members[change.server]
        else:
            members[change.server] = _changed(members.get(change.server), change)
    after = tuple(members[server] for server in sorted(members))
    if after == configuration.members:
        return "this changes nothing: name a server, and what becomes of it"
    if not any(member.voter for member in after):
        return "nobody would have a vote: leave at least one voter, or promote a learner as well"
    return _doubled(after, keys) or after


def _obstacle(configuration: Configuration, change: MemberChange) -> str:
    """A sentence on what is wrong with one part of a change by itself."""
    server, held = change.server, configuration.find(change.server)
    if not 1 <= server <= MOST_SERVERS:
        return f"server {server}: ids run from 1 to {MOST_SERVERS}"
    if change.kind == "add" and held is not None:
        return f"server {server} is a member already: choose another id, or replace that one"
    if change.kind != "add" and held is None:
        members = in_list(configuration.servers)
        advice = "" if change.kind == "remove" else ": add it first"
        return f"server {server} is no member; the members are {members}{advice}"
    if change.kind == "promote" and held is not None and held.voter:
        return f"server {server} has a vote already"
    if change.kind == "demote" and held is not None and not held.voter:
        return f"server {server} has no vote that it could lose"
    if change.kind in ("add", "replace"):
        if not 0 < change.incarnation < 1 << 63:
            return f"server {server}: name its data directory; the server tells its number"
        if change.incarnation in configuration.removed:
            return (
                f"the data directory of server {server} was a member's before and never comes "
                "back: start the server on an empty one"
            )
        if any(change.incarnation == member.incarnation for member in configuration.members):
            return f"server {server}: this data directory is a member's already"
    return _bad_address(change)


def _bad_address(change: MemberChange) -> str:
    for address in (change.peer, change.client):
        if not can_be_dialled(address):
            return f"server {change.server}: {address!r:.80} cannot be dialled: tcp://HOST:PORT can"
    try:
        if change.key:
            check_key(change.key)
    except TransportError as error:
        return f"server {change.server}: {error}"
    return ""


def _changed(held: Member | None, change: MemberChange) -> Member:
    """The member that a change makes of one, or of nobody."""
    if held is None:
        held = Member(change.server, change.incarnation, voter=False)
    return structs.replace(
        held,
        incarnation=change.incarnation if change.kind == "replace" else held.incarnation,
        voter=(held.voter or change.kind == "promote") and change.kind != "demote",
        peer=change.peer or held.peer,
        client=change.client or held.client,
        key=change.key or held.key,
    )


def _doubled(members: Iterable[Member], keys: Mapping[ServerId, str]) -> str:
    """Whether two would have the same address or key; where the log knows none, files may."""
    seen: dict[str, ServerId] = {}
    for member in members:
        key = member.key or keys.get(member.server, "")
        if key in seen:
            return f"server {member.server} would have the key of server {seen[key]}"
        if key:
            seen[key] = member.server
        for address in filter(None, (member.peer, member.client)):
            place = same_place(address)
            if seen.get(place) == member.server:
                return f"server {member.server} would have {address} for servers and for clients"
            if place in seen:
                return (
                    f"server {seen[place]} has the address {address} already: give server "
                    f"{member.server} one of its own"
                )
            seen[place] = member.server
    return ""


def unserved(members: Iterable[Member], fit: Mapping[ServerId, int]) -> str:
    """Why these members could not go on at once; "" if they could."""
    voters = {member.server: member.incarnation for member in members if member.voter}
    missing = [server for server, number in voters.items() if fit.get(server) != number]
    if len(voters) - len(missing) > len(voters) // 2:
        return ""
    return (
        f"{_silent(missing)}, so that no majority of {in_list(list(voters))} could serve: start "
        "what is down, and wait until it has caught up"
    )


class Opening:
    """Whom to tell that an epoch has ended, until a leader of a later one is heard (M9)."""

    def __init__(
        self, configuration: Configuration, server: ServerId, named: ServerId, now: float
    ) -> None:
        """`configuration` is the one that begins; `named` is to lead it, 0: nobody is known."""
        both = {member.server for member in (*configuration.members, *configuration.leaving)}
        self.tell = tuple(sorted(both - {server}))
        self.named = named
        self.due = now
        """When to tell them (again), monotonic seconds."""
        self.asked: tuple[P1A, ServerId] | None = None
        """Who wants to lead and asked for a promise before this server was sure of its vote."""
        self._sealed = Sealed(configuration.epoch - 1, configuration.sealed_at)

    def message(self, server: ServerId) -> Sealed:
        """The message for one of them."""
        return structs.replace(self._sealed, start=server == self.named)
