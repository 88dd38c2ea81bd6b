"""By which directory each member is known, and whether one's own is its newest: plain data.

A member is its directory: with another one it is not. And each commit of a directory has a number,
of which the others remember the highest that they were told: one that starts with less is old
(docs/design/old-copies.md). A majority of the newest configuration counts that anybody told of
(docs/membership.md, M15): the one of the directory's own epoch may be of servers that are gone, or
know of nothing later. For the same reason a server asks again in each epoch that it enters with a
vote: it may have voted there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId, in_list
from paxon.actors.disk.storage import StorageError
from paxon.actors.limits.bounds import MAX_COUNT_JUMP, MAX_EPOCHS_AHEAD
from paxon.actors.messages import Accepted, CountAnswer, CountQuestion, Heartbeat
from paxon.actors.records.configuration import Configuration, decode_config

__all__ = ["Confirmation", "KnownDisks"]


class KnownDisks:
    """The others' directories, as one server knows them; all times are monotonic seconds."""

    def __init__(self) -> None:
        self.incarnations: dict[ServerId, int] = {}
        """The other members, each by the incarnation of its data directory."""
        self.counts: dict[ServerId, int] = {}
        """The highest commit number that each one's directory was heard to have."""
        self.heard_at: dict[ServerId, float] = {}
        """When each was heard last, by the directory that it is known by."""
        self.answered: dict[ServerId, tuple[int, int]] = {}
        """What each that asked about its directory was answered last, and in which life."""
        self._heard: tuple[Ballot, int] = NO_BALLOT, 0
        """The reign, and its latest round, in which the leader told of the counts."""
        self._lent: dict[ServerId, tuple[int, int]] = {}
        """Where a count was last raised by the leader, in this reign: before that, and to what."""
        self._lower: set[ServerId] = set()
        """Of these it told less in its last round than it did before."""

    def join(self, incarnations: dict[ServerId, int], now: float) -> None:
        """These are the others. (One that has just started does not know who lives.)"""
        before, self.incarnations = self.incarnations, incarnations
        same = [s for s, number in incarnations.items() if before.get(s) == number]
        heard, counts = self.heard_at, self.counts
        self.heard_at = dict.fromkeys(incarnations, now) | {s: heard.get(s, now) for s in same}
        self.counts = dict.fromkeys(incarnations, 0) | {s: counts[s] for s in same}

    def recover(self, counts: Mapping[ServerId, int]) -> None:
        """Take up what this server's directory remembers."""
        known = {s: count for s, count in counts.items() if s in self.incarnations}
        self.counts = dict.fromkeys(self.incarnations, 0) | known

    def note_count(self, server: ServerId, count: int) -> None:
        """A server that was confirmed itself tells of a commit of its directory.

        Remembered on disk with the next commit. At most so much a message: limits/bounds.py. (One
        that was a member when its message came is perhaps none any more.)
        """
        known = self.counts.get(server)
        if known is not None and count > known:
            self.counts[server] = min(count, known + MAX_COUNT_JUMP)
        elif server in self._lent:  # below what a leader has told, but not to be forgotten with it
            before, raised_to = self._lent[server]
            self._lent[server] = max(before, count), raised_to

    def hear(self, heartbeat: Heartbeat) -> None:
        """Learn from the leader what it knows of all directories.

        Two followers may never talk until the leader is gone: by then they have to know how far
        each other's directories are, or an old one would pass for the one that voted.

        Within a reign its counts fall only where a server has denied one. So what it has raised
        here, and nobody else, it also takes back, with two rounds: one might be damaged.
        """
        ballot, last = self._heard
        if heartbeat.ballot != ballot:
            self._lent, self._lower = {}, set()
        elif heartbeat.round <= last:
            return  # it was overtaken, perhaps by a denial
        self._heard = heartbeat.ballot, heartbeat.round
        lower: set[ServerId] = set()
        for server, incarnation, count in heartbeat.incarnations:
            if self.incarnations.get(server) != incarnation or count == self.counts[server]:
                continue
            known = self.counts[server]
            before, raised_to = self._lent.get(server, (known, known))
            if raised_to != known:  # the server itself has told more since, or denied that
                before = known
            if count > known:
                self.note_count(server, count)
                self._lent[server] = before, self.counts[server]
            elif before < known and server not in self._lower:
                lower.add(server)
            elif before < known:
                self.counts[server] = max(before, count)
        self._lower = lower

    def answer(self, question: CountQuestion, sender: ServerId) -> CountAnswer | None:
        """The answer about a server's directory; None to one that denies what it was told."""
        known = self.incarnations.get(sender, 0)
        remembered = self.counts.get(sender, 0) if known == question.incarnation else 0
        if not question.denies:
            self.answered[sender] = (question.life, remembered)
            return CountAnswer(question.life, known, remembered)
        if self.answered.pop(sender, (0, 0)) == (question.life, remembered) and (
            question.count < remembered == question.denies
        ):
            # It was confirmed and runs, so that it knows best: the higher number came in a frame
            # that was damaged, or not its own. It must not be refused for that when it restarts.
            # (A denial that comes late denies what was remembered once, and not what is now.)
            self.counts[sender] = max(question.count, remembered - MAX_COUNT_JUMP)
        return None


@dataclass
class Confirmation:
    """A question about this directory's commits, and who has answered what."""

    server: ServerId
    incarnation: int
    count: int
    """The number of the last commit that the server found when it started."""
    ask_at: float
    """When to ask (again) whoever has not answered, monotonic seconds."""
    pending: bool
    """Nothing may be stored, and nobody answered, until others have confirmed the count."""
    may_store: bool = True
    """Its cluster was not in force when it started: to make it is stored, for nobody can have
    promised anything then. What it promises afterwards waits like everything else."""
    made_here: bool = False
    """This very process has made the directory: there was none that could be older."""
    newest: Configuration = Configuration(0, 0, ())  # noqa: RUF009 (it is frozen)
    """The latest that is known, or was told: whose majority has to confirm."""
    seal: Accepted | None = None
    seal_teller: ServerId = 0
    """Its CONFIG, which ends the epoch before, as somebody who knows it as chosen told it: who."""
    listed: tuple[ServerId, ...] = ()
    """They are asked as well: they may know a later configuration."""
    life: int = 0
    """A random number of this question: answers to another do not count. 0: not asked yet."""
    asked_at: float = 0.0
    """When all were last asked anew, since the server takes part; monotonic seconds."""
    entering: int = 0
    """The epoch that has begun here, while its voters have still to confirm this directory."""
    told: bool = False
    """Whether this process has told anybody of commits: as a member, in votes and the like."""
    vouched: set[ServerId] = field(default_factory=set)
    """Who has known of no later state of this directory, since it was started or an epoch began."""
    confirmed_by: set[ServerId] = field(default_factory=set)
    denied_by: set[ServerId] = field(default_factory=set)
    """Servers that know this one by another directory."""
    _directories: dict[ServerId, int] = field(default_factory=dict)
    """Which directory each answered from."""
    _told: dict[ServerId, int] = field(default_factory=dict)
    """Who sent something from a later epoch than the newest that was known: from which."""

    def __post_init__(self) -> None:
        self._own_epoch = self.newest.epoch
        self._sure_to = 0 if self.pending else self._own_epoch
        """The epoch up to which this directory was confirmed."""
        self.all_until = self.ask_at
        """Until then all others have to confirm, for the database is not the file that it was."""

    def ask_anew(self) -> None:
        """Begin another question, while the server takes part."""
        self.life = 0
        self.confirmed_by = set()
        self.denied_by = set()

    def note_part(self, *, member: bool) -> None:
        """Note whether this server has, or had, a part in an epoch: then it tells its commits."""
        if member and not self.pending:
            self.told = True

    def part_in(self, configuration: Configuration, number: int) -> tuple[bool, bool]:
        """Whether the directory of this `number` takes part as a member, and as a voter.

        A voter's does so only where it is known to be no old copy, and of no earlier epoch (M15).
        """
        sure = configuration.epoch >= self.epoch_told and not self.entering
        member = configuration.incarnations.get(self.server) == number
        voter = configuration.votes(self.server, number)
        if voter and not sure:
            return False, False
        self.note_part(member=member)
        return member, voter

    def enters(self, configuration: Configuration) -> bool:
        """An epoch begins here: whether its voters have to be asked before this server votes."""
        self._own_epoch = max(self._own_epoch, configuration.epoch)
        self.vouched = set()
        voters = configuration.voters
        if (
            self.pending
            or self.made_here
            or configuration.epoch <= max(self._sure_to, self.entering)
            or voters == (self.server,)
            or not configuration.votes(self.server, self.incarnation)
        ):
            return False
        self.ask_anew()
        self.entering = configuration.epoch
        self._directories = {}
        return True

    def settle(self, now: float) -> bool:
        """Whether enough have answered by now."""
        if not self.is_enough(now):
            return False
        self.pending, self.entering = False, 0
        self._sure_to = self.newest.epoch
        return True

    @property
    def waits(self) -> bool:
        """Whether this server's part, or its vote, depends on the answers."""
        return self.pending or self.entering > 0

    def waits_for(self) -> str:
        """The reason why this server takes no part while it is pending, for people."""
        waits = (
            f"waits for confirmation by {in_list(self.unanswered())} that its data directory "
            f"is not an old copy (docs/design/old-copies.md)"
        )
        if self.confirmed_by or self.denied_by:
            return waits
        return (
            f"{waits}; nobody has answered: start them, or, if the cluster was recovered or "
            "restored without this directory, start this server on an empty one with --join"
        )

    # --- answers ---------------------------------------------------------------------------------

    def check_count(self, answer: CountAnswer, sender: ServerId, held: int) -> None:
        """Raise `StorageError` if another knows a later state than this directory's at start.

        Whenever a member says so for the first time: a majority may have been quicker.
        """
        if answer.incarnation != self.incarnation:
            return
        matters = self.waits or self.newest.find(sender) is not None
        if answer.remembered <= held:
            self.vouched.add(sender)
        elif matters and sender not in self.vouched and not self.made_here:
            raise StorageError(
                f"server {self.server}'s data directory is an old copy: it ends at commit {held}, "
                f"and server {sender} was told of commit {answer.remembered}. Nothing was changed "
                f"in it: bring back the newest one, or empty it and start once with --rejoin"
            )

    def denial(self, answer: CountAnswer, next_count: int, count: int) -> CountQuestion | None:
        """The answer to a server that remembers commits which this one has not made yet.

        Only once *all* have known of none: an old copy, whoever let it in, must take nothing back
        of what the newest directory told.
        """
        others = set(self.newest.servers) - {self.server}
        if (
            not (self.made_here or others <= self.vouched)
            or answer.remembered < next_count
            or answer.incarnation != self.incarnation
        ):
            return None
        return CountQuestion(answer.life, self.incarnation, count, denies=answer.remembered)

    def hear(self, answer: CountAnswer, sender: ServerId, *, joins: bool) -> None:
        """Count an answer for this directory, or for another one.

        That may be the one in whose place this one joins.
        """
        self._directories[sender] = answer.sender
        epoch = self._hear_of(answer, sender) if answer.configuration else 0
        if sender in self._told:
            self._told[sender] = epoch  # its own word goes before what any frame seemed to be
        # (Who is in an earlier epoch than this directory knows whom this one has replaced.)
        if answer.incarnation in (0, self.incarnation) or joins or epoch < self._own_epoch:
            self.confirmed_by.add(sender)
        else:
            self.denied_by.add(sender)

    @property
    def epoch_told(self) -> int:
        """The highest epoch that anything came from: in none before that may this server vote."""
        return max(self.newest.epoch, *self._told.values(), 0)

    def tellers(self) -> list[ServerId]:
        """The servers that say so, where it is more than the newest known configuration."""
        return [server for server, epoch in self._told.items() if epoch > self.newest.epoch]

    def _hear_of(self, answer: CountAnswer, sender: ServerId) -> int:
        """Somebody is in this epoch: nobody's word but its own makes it one of that."""
        try:
            told = decode_config(answer.configuration)
        except msgspec.DecodeError:
            return 0
        if not told.plausible:
            return 0
        if told.epoch > self.newest.epoch:
            self.newest = told
        if answer.ballot != NO_BALLOT and told.epoch >= max(self.newest.epoch, self._own_epoch + 1):
            self.seal = Accepted(told.sealed_at, answer.ballot, answer.configuration)
            self.seal_teller = sender
        return told.epoch

    def hear_of_epoch(self, epoch: int, sender: ServerId) -> bool:
        """Something came from this epoch while the server waits; whether its sender is to be asked.

        It may be known to nobody else that is left: who sent it can tell who has to confirm.
        """
        if epoch - self.newest.epoch > MAX_EPOCHS_AHEAD:
            return False  # a damaged frame must not keep it from voting
        if epoch <= max(self.newest.epoch, self._told.get(sender, 0)):
            return False
        self._told[sender] = epoch
        self.confirmed_by.discard(sender)  # (it is asked once more)
        self.denied_by.discard(sender)
        return True

    def check_hope(self) -> None:
        """Raise `StorageError` if so many know another directory that no majority is left."""
        others = self._other_voters()
        if len(self.denied_by.intersection(others)) > len(others) - self._needed():
            raise StorageError(
                f"server {self.server}'s data directory is not the one that the cluster knows: "
                f"give that one back, or empty it and start once with --rejoin"
            )

    def _needed(self) -> int:
        """How many of the other voters make a majority, with this server itself if it is one.

        All of them, where one that joins in a voter's place is told of too few.
        """
        own = self.newest.votes(self.server, self.incarnation)
        return min(self.newest.majority - own, len(self._other_voters()))

    def is_enough(self, now: float) -> bool:
        """Whether enough of the other voters have confirmed."""
        others = self._other_voters()
        needed = len(others) if now < self.all_until else self._needed()
        return sum(map(self._speaks, self.confirmed_by.intersection(others))) >= needed

    def _speaks(self, server: ServerId) -> bool:
        """Whether the answer of a server came from the very directory that is a member's."""
        member = self.newest.find(server)
        return member is None or self._directories.get(server) in (None, member.incarnation)

    def _other_voters(self) -> list[ServerId]:
        return [server for server in self.newest.voters if server != self.server]

    def unanswered(self) -> list[ServerId]:
        # (A server that was started on an old directory may be back on the right one by now.)
        answered = set(filter(self._speaks, self.confirmed_by | self.denied_by))
        # (What is denied is denied to learners as well: they take it along when they get a vote.)
        known = self._other_voters() if self.waits else self.newest.servers
        asked = sorted({*known, *self._told, *self.listed} - {self.server})
        return [server for server in asked if server not in answered]
