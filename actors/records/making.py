"""How the servers of a file become a cluster, once: plain data (docs/design/making-a-cluster.md).

*All* servers make it, not a majority: else two, of which one has lost its directory, could make a
second cluster beside the first. Nobody promises, accepts or serves clients before it is in force.
"""

from __future__ import annotations

from paxon.actors.ballot import ServerId, in_list
from paxon.actors.disk.storage import StorageError
from paxon.actors.invariants import invariant
from paxon.actors.members import Member
from paxon.actors.messages import Introduction, Made, Place
from paxon.actors.settings import Settings
from paxon.transport import cluster_name

__all__ = ["Making", "NotAMember", "Retired"]

FRESH_FOR = 4
"""How often this server asks again before an answer as fresh is too old to count. It may have been
given by a directory that was emptied since, and a cluster made with that one could never serve.
Twice as often whenever one is too old before all others have answered: of servers that are kept
from running for longer, each at another time, no two answers would ever count together."""
LONGEST_FRESH = 1024
"""It is never more often than this (some fifty seconds)."""


class NotAMember(StorageError):
    """The cluster is in force, and this directory is not one of its members'."""


class Retired(StorageError):
    """This directory's member was taken out of its cluster, and knows so: the end as wished."""

    def __init__(self, server: ServerId, name: str) -> None:
        super().__init__(
            f"server {server} was taken out of cluster {name!r}, which has gone on without it: its "
            "data directory is retired and never comes back; to have the server in the cluster "
            "again start it on an empty directory with --join"
        )


class Making:
    """The making of a cluster, as one server knows it; the server stores, sends and waits."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.cluster
        self.server = settings.server
        self.listed = tuple(sorted(settings.servers))
        """The servers of this server's file: those that make the cluster."""
        self.incarnation = 0
        self.address = settings.peer_addresses.get(settings.server, "")
        self.client = settings.client_addresses.get(settings.server, "")
        self.rejoins = settings.rejoin
        self._join = settings.join or settings.rejoin
        self.joins = False
        """This directory is to become a member's of a cluster that is in force …"""
        self.made: Made | None = None
        """What is stored here."""
        self.in_force = False
        self._fresh_directories: dict[ServerId, int] = {}
        """Who has answered our incarnation as fresh, with a file like ours: its incarnation."""
        self._asked_since: dict[ServerId, int] = {}
        """How often this server has asked since they answered so, …"""
        self._fresh_for = FRESH_FOR
        """… and how often it may."""
        self._stored: set[ServerId] = set()
        """Who has told that it stored what is stored here."""
        self._heard: set[ServerId] = set()
        self._obstacles: dict[ServerId, str] = {}
        """What is wrong with somebody's last word, and what to do."""
        self.ask_at = 0.0
        """When to introduce this server (again), monotonic seconds."""

    def recover(self, incarnation: int, made: Made | None, *, in_force: bool) -> None:
        """Take up what the directory holds."""
        self.incarnation = incarnation
        self.made = made
        self.in_force = in_force
        self.joins = self._join and made is None

    def introduction(
        self, *, to: int = 0, asks: bool = False, places: tuple[Place, ...] = (), chosen_to: int = 0
    ) -> Introduction:
        """The introduction for another server."""
        return Introduction(
            self.incarnation, to, asks, self.name, self.listed, self.made, self.in_force, places,
            self.joins, self.joins and self.rejoins, chosen_to,
        )  # fmt: skip

    def own_wish(self) -> tuple[Member, ...]:
        """This server, while it waits to join: with keys no member hears that."""
        if not self.joins:
            return ()
        return (Member(self.server, self.incarnation, False, self.address, self.client),)

    # --- making ----------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether this server is the one to make the cluster, and may do so now."""
        return (
            self.made is None
            and not self.joins
            and self.server == self.listed[0]
            and all(server in self._fresh_directories for server in self.listed[1:])
        )

    def ask_again(self) -> None:
        """All are asked once more: one that does not answer soon no longer counts as fresh."""
        for server in self._fresh_directories:
            self._asked_since[server] += 1
        late = [s for s in self._fresh_directories if self._asked_since[s] > self._fresh_for]
        for server in late:
            self.forget(server)
        if late:
            self._fresh_for = min(2 * self._fresh_for, LONGEST_FRESH)

    def forget(self, server: ServerId) -> None:
        """Its connection has ended: it may come back with another directory."""
        self._fresh_directories.pop(server, None)

    def make(self, identity: int, agreed: bytes) -> Made:
        """The making that is to be stored then."""
        invariant(self.ready(), "server %d makes a cluster too early", self.server)
        members = {**self._fresh_directories, self.server: self.incarnation}
        return Made(identity, self.name, tuple((s, members[s]) for s in self.listed), agreed)

    def store(self, made: Made) -> None:
        """It is stored here (or will be before anything that is sent from now on)."""
        invariant(self.made is None, "server %d stores a second making", self.server)
        invariant(
            self.joins or made.incarnation(self.server) == self.incarnation,
            "server %d stores a making of another directory", self.server,
        )  # fmt: skip
        self.made = made
        self._obstacles.clear()

    def complete(self) -> bool:
        """Whether all members are known to have stored what is stored here."""
        return self.made is not None and self._stored | {self.server} >= set(self.made.servers)

    # --- hearing ---------------------------------------------------------------------------------

    def hear(self, said: Introduction, sender: ServerId) -> Made | None:
        """Take in what another server says; the making to store because of it, if any.

        Raises `NotAMember` if the cluster is in force without this directory.
        """
        self._heard.add(sender)
        self._obstacles.pop(sender, None)
        if self.made is not None:
            self._hear_as_holder(self.made, said, sender)
            return None
        if said.name != self.name:
            self._fresh_directories.pop(sender, None)
            theirs = f"is to belong to cluster {said.name!r}"
            if said.made is not None:
                theirs = f"belongs to {cluster_name(said.made.identity, said.name)}"
            self._obstacles[sender] = (
                f"server {sender} {theirs}, and this one is to belong to {self.name!r}: give both "
                f"the same name, or correct the address of server {sender}"
            )
            return None
        if said.made is None:
            self._hear_fresh(said, sender)
            return None
        self._fresh_directories.pop(sender, None)
        return self._hear_holder(said.made, said, sender)

    def _hear_as_holder(self, made: Made, said: Introduction, sender: ServerId) -> None:
        known = made.incarnation(sender)
        if known is None:
            return  # it will find out by our answer
        if said.made is None and said.incarnation == known:
            return  # it has not heard of the making yet
        if said.made is not None and said.made.identity == made.identity:
            if said.incarnation == known:
                self._stored.add(sender)
            if said.in_force:  # then all have stored it, some perhaps lost their directories since
                self._stored.update(made.servers)
            return
        holders = in_list(sorted({self.server, *self._stored}))
        what = (
            "has a directory that was emptied since the cluster was made"
            if said.made is None
            else f"holds the making of {cluster_name(said.made.identity, said.made.name)}"
        )
        self._obstacles[sender] = (
            f"server {sender} {what}, while {holders} made "
            f"{cluster_name(made.identity, made.name)}: nothing was acknowledged yet, so empty the "
            f"directories of {holders} and of server {sender}, and start all again"
        )

    def _hear_fresh(self, said: Introduction, sender: ServerId) -> None:
        before = self._fresh_directories.pop(sender, None)
        if said.joins:
            self._obstacles[sender] = (
                f"server {sender} was started with {'--rejoin' if said.rejoins else '--join'}, and "
                "there is no cluster yet: start it without, or once the others have made one"
            )
        elif tuple(sorted(said.servers)) != self.listed:
            self._obstacles[sender] = (
                f"the file of server {sender} lists {in_list(said.servers)}, and this one's lists "
                f"{in_list(self.listed)}: give all the same list"
            )
        elif said.to == self.incarnation or said.incarnation == before:
            self._fresh_directories[sender] = said.incarnation
            self._asked_since[sender] = 0

    def _hear_holder(self, made: Made, said: Introduction, sender: ServerId) -> Made | None:
        """Another server holds a making, and this one's directory is fresh."""
        where = f"{cluster_name(made.identity, made.name)} of {in_list(made.servers)}"
        known = made.incarnation(self.server)
        if self.joins:
            if said.in_force:
                return made
            sentence = f"{where} is not in force yet: this server joins it once it is"
        elif known is None:
            sentence = (
                f"server {self.server} is not a member of {where}, which server {sender} belongs "
                "to: members come from their data directories, whatever a file lists; take server "
                f"{self.server} out of the file, or have it join: start it with --join"
            )
        elif known == self.incarnation and not said.in_force:
            if made.servers == self.listed:
                return made
            sentence = (
                f"server {sender} made {where}, and the file of this server lists "
                f"{in_list(self.listed)}: give all the same list"
            )
        elif said.in_force:
            sentence = (
                f"the data directory of server {self.server} is not the one that {where} knows: "
                "give the old one back, or empty it and start once with --rejoin"
            )
        else:
            sentence = (
                f"server {sender} made {where} with another directory of server {self.server}: "
                "nothing was acknowledged yet, so empty the directories of all servers that hold "
                "it, and start them again"
            )
        if said.in_force:
            raise NotAMember(sentence)
        self._obstacles[sender] = sentence
        return None

    def may_be_of(self, said: Introduction) -> bool:
        """Whether it may come from a member, or one to be, as far as names tell."""
        mine = self.made
        if mine is not None and said.made is not None:
            return said.made.identity == mine.identity
        return said.name == self.name

    # --- for people ------------------------------------------------------------------------------

    def waits_for(self) -> str:
        """A sentence on what stands in the way, while the cluster is not in force."""
        if self._obstacles:
            return "; ".join(text for _, text in sorted(self._obstacles.items()))
        if self.made is None:
            others = [server for server in self.listed if server != self.server]
            nobody = "" if self._heard else self._why_nobody()
            if self.joins:
                return f"waits for {in_list(others)} to tell which cluster it joins{nobody}"
            missing = [server for server in others if server not in self._fresh_directories]
            if not missing:
                return f"waits for server {self.listed[0]} to make the cluster"
            return f"waits for {in_list(missing)} to make the cluster{nobody}"
        missing = [s for s in self.made.servers if s != self.server and s not in self._stored]
        return f"waits for {in_list(missing)} to store the making of the cluster"

    def waits_to_join(self, *, known: bool) -> str:
        """A sentence on how this server becomes a member; `known`: a member has its id."""
        if not known:
            return f"waits to become a member: `paxon member add {self.server}` makes it one"
        lost = f"waits for the place of the directory that server {self.server} had before: "
        if self.rejoins:
            return (
                f"{lost}the leader gives it that once it has caught up and the old one has been "
                "silent for a while"
            )
        return f"{lost}`paxon member replace {self.server}` gives it that"

    def _why_nobody(self) -> str:
        return (
            ", none of which has answered: they are down, cannot be reached, or take another "
            f"process for server {self.server}, at another address than "
            f"{self.address or 'this one'}"
        )
