"""Which servers there are: making the cluster, and knowing its members by their directories.

Split off for reading in a sitting only: there is one server class, and this is part of it. The
rules of making are in actors/making.py, what they mean for people in docs/making-a-cluster.md.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from paxon.actors.agreed import decode_agreed, encode_agreed, first_agreed
from paxon.actors.application import Application
from paxon.actors.ballot import ServerId
from paxon.actors.environment import ClientToken, Environment, ServerBurst
from paxon.actors.making import Making, in_list
from paxon.actors.messages import (
    P1A,
    CatchUpRequest,
    CountAnswer,
    CountQuestion,
    Introduction,
    Made,
    OtherCluster,
    PeerMessage,
    SlotRequest,
    SnapshotRequest,
    StatusRequest,
    Stranger,
)
from paxon.actors.reception import Reception
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.transport.log import logger

__all__ = ["Membership", "NEVER"]

NEVER = float("inf")

SAY_FIRST = 2.0
"""Seconds after which a server that waits for others to make its cluster says so …"""
SAY_AGAIN = 30.0
"""… and says the same again."""


HARMLESS = frozenset((CatchUpRequest, SnapshotRequest, Introduction, CountQuestion, CountAnswer))
"""Messages that are let through from a member that comes with another directory than is known."""


class Membership(Reception):
    """Belongs to a cluster, or makes one with the others."""

    def __init__(self, settings: Settings, machine: StateMachine, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.voting = True
        """False while rejoining after a lost disk."""
        self.application = Application(machine, first_agreed(settings.agreed_given, machine.limits))
        self.making = Making(settings)
        """Which cluster this server belongs to; nothing else goes on before it is in force."""
        self._in_force = False
        self._introduce_at = 0.0
        self._said = ""
        self._say_at = NEVER
        """When to say next for whom or what this server waits."""
        self._heard_from: dict[ServerId, float] = {}
        """When each member was heard last, by the directory that it is known by."""
        self._told_alive: dict[ServerId, tuple[int, float]] = {}
        """By which directory, and when, the leader said last that it hears a member."""
        self._peers: dict[ServerId, int] = {}
        """The other members, each by the incarnation of its data directory."""
        self._peer_handlers: dict[type, Callable[[Any, ServerId], None]] = {
            Introduction: self.on_introduction,
        }
        self._client_handlers[Stranger] = self.on_stranger

    # --- members, known by their disks -----------------------------------------------------------

    def _admit(
        self, sender: ServerId, incarnation: int, messages: list[PeerMessage]
    ) -> list[PeerMessage]:
        """Know each member by its disk: one that lost it may not vote as if nothing happened.

        From one that comes with another disk only that is let through which changes nothing (asking
        for missing slots or for the cluster), and the forced P1A of a rejoining server, which
        replaces the old disk (docs/rejoin.md).
        """
        if sender not in self._peers:  # no member: it may ask which cluster this is
            return [m for m in messages if type(m) is Introduction]
        # (A late copy of an earlier rejoining's P1A is not above the promise and changes nothing.)
        rejoins = any(type(m) is P1A and m.forced and m.ballot > self.promised for m in messages)
        if rejoins and self._refuses_rejoin(sender, incarnation):
            return []
        if rejoins:
            self._peers[sender] = incarnation
            self._counts[sender] = 0  # of another directory
            self._storage.save_made(self.making.replace(sender, incarnation), in_force=True)
            return messages
        introductions: list[PeerMessage] = [m for m in messages if type(m) is Introduction]
        if len(introductions) == len(messages):
            return introductions
        if self._counters["refused_incarnations"] % 1000 == 0:
            logger.warning(
                "server {} comes with another disk than before and is refused: give it its old "
                "data directory back, or start it with --rejoin",
                sender,
            )
        self._counters["refused_incarnations"] += 1
        return [
            m
            for m in messages
            if type(m) in HARMLESS
            # Too low a ballot is answered with the higher one, so that it rejoins above that.
            or (type(m) is P1A and m.forced and m.ballot < self.promised)
        ]

    def _refuses_rejoin(self, server: ServerId, incarnation: int) -> bool:
        """Whether a member lives by another directory: none may take that one's place then.

        Heard here, or by the leader: followers hardly hear each other, and one that took over an
        impostor's directory would refuse the true one for good.
        """
        recently = self._now - self.settings.election_timeout_max
        told, told_at = self._told_alive.get(server, (incarnation, 0.0))
        heard = self._peers.get(server) != incarnation and self._heard_from[server] > recently
        if not heard and not (told != incarnation and told_at > recently):
            return False
        if self._counters["refused_rejoins"] % 100 == 0:
            logger.warning(
                "another process wants to rejoin as server {}, which is alive: it is refused; "
                "stop one of the two", server,
            )  # fmt: skip
        self._counters["refused_rejoins"] += 1
        return True

    def _heard_lately(self) -> list[ServerId]:
        """Who lives, as far as is known here: for the others, in a leader's heartbeats."""
        recently = self._now - self.settings.election_timeout_max
        return [server for server, at in self._heard_from.items() if at > recently]

    def _malformed(self, message: PeerMessage, sender: ServerId) -> None:
        """Count a message that no server in its right mind sends, and say so now and then."""
        if self._counters["malformed_messages"] % 1000 == 0:
            logger.warning(
                "a malformed message of server {} is ignored: {!r:.200}", sender, message
            )
        self._counters["malformed_messages"] += 1

    def _refuse_number(self, sender: ServerId, name: str, value: object) -> None:
        """Count a number that is too far from what is known here, and say so now and then."""
        if self._counters["refused_numbers"] % 1000 == 0:
            logger.warning(
                "server {} tells of {} {}, which is too far beyond what is known here to be taken "
                "over at once (docs/numbers.md)", sender, name, value,
            )  # fmt: skip
        self._counters["refused_numbers"] += 1

    # --- making the cluster (rule 11) ------------------------------------------------------------

    def _handle_before(self, burst: ServerBurst) -> None:
        """The cluster is not in force: servers may introduce themselves, and nothing else counts.

        Clients are told that nobody leads: what is executed here is not yet anybody's state.
        """
        for server in burst.lost:
            self.making.forget(server)
        for sender, _, received in burst.peers:
            for message in received:
                if type(message) is Introduction and not self._in_force:
                    self.on_introduction(message, sender)
        self._allow_time()
        for client, requests in burst.clients:
            for request in requests:
                if type(request) in (StatusRequest, SlotRequest) and not self._spent:
                    self._client_handlers[type(request)](request, client)
                else:
                    self._refuse(client)

    def on_introduction(self, said: Introduction, sender: ServerId) -> None:
        """Make the cluster together, or tell a server that does not know it which one this is."""
        if said.made is not None and not said.made.plausible:
            self._malformed(said, sender)
            return
        if not self._in_force and sender != self.settings.server:
            found = self.making.hear(said, sender)
            if found is not None:
                self._store_made(found, in_force=self.making.rejoins)
            self._make_on()
        if said.asks:
            self._send(sender, self.making.introduction(to=said.incarnation))

    def _make_on(self) -> None:
        """Make the cluster if that is up to this server, and note when it has come into force."""
        making = self.making
        if making.ready():
            identity = 1 + self._random.getrandbits(62)
            agreed = encode_agreed(self.application.agreed)
            self._store_made(making.make(identity, agreed), in_force=False)
        if not making.in_force and making.complete():
            assert making.made is not None
            self._storage.save_made(making.made, in_force=True)
            self._come_into_force(making.made)

    def _store_made(self, made: Made, *, in_force: bool) -> None:
        """Belong to this cluster from now on, and tell all, so that it may come into force."""
        self._agree(made)
        self.making.store(made)
        self._storage.save_made(made, in_force=in_force)
        self._network.identify(made.identity, in_force=False)
        if in_force:  # (a lost disk's place is taken: others have been voting all along)
            self.voting = False
            self._storage.save_voting(False)
            self._come_into_force(made)
        self._introduce_at = self._now

    def _agree(self, made: Made) -> None:
        """Execute by what was agreed when the cluster was made, whatever this server was told."""
        limits = self.application.machine.limits
        self.application.begin_with(decode_agreed(made.agreed, limits), made.identity)

    def _come_into_force(self, made: Made) -> None:
        """Every member has stored it: from here on this server takes part."""
        self.making.in_force = True
        self._join(made)
        self._network.identify(made.identity, in_force=True)
        self._introduce(asks=False)  # so that the others need not ask again
        self._on_recovered(fresh=True)
        logger.info(
            "server {}: cluster {!r} ({:016x}) of {} is in force",
            self.settings.server, made.name, made.identity, in_list(made.servers),
        )  # fmt: skip

    def _join(self, made: Made) -> None:
        """Be one of these members: majorities, votes and everything else count them alone."""
        me = self.settings.server
        self._in_force = True
        self._peers = {server: number for server, number in made.members if server != me}
        self._others = tuple(self._peers)
        # Whoever has just started has heard nobody, and does not know who lives.
        self._heard_from = dict.fromkeys(self._others, self._now)
        self._majority = made.majority
        if set(made.servers) != set(self.settings.servers):
            logger.warning(
                "server {} was told of {}, but the members of its cluster are {}: these stay in "
                "force, since members come from the data directory (docs/making-a-cluster.md)",
                me, in_list(sorted(self.settings.servers)), in_list(made.servers),
            )  # fmt: skip

    def _introduce(self, *, asks: bool) -> None:
        """Say who this is, and what it holds, to all that should have a part in the cluster."""
        self._introduce_at = self._now + self.settings.heartbeat_interval
        said = self.making.introduction(asks=asks)
        for server in self.making.audience:
            self._send(server, said)

    def _on_making_timer(self) -> None:
        """Ask all others once more, and say now and then for whom or what this server waits."""
        self.making.ask_again()
        self._introduce(asks=True)
        text = self.making.waits_for()
        if text != self._said:
            self._said = text
            self._say_at = min(self._say_at, self._now + SAY_FIRST)
        if self._now >= self._say_at:
            self._say_at = self._now + SAY_AGAIN
            logger.warning("server {}: its cluster is not in force: {}", self.settings.server, text)

    def _on_open(self) -> None:
        made = self.making.made
        if made is not None:
            self._network.identify(made.identity, in_force=self._in_force)
        if not self._in_force:
            self._make_on()  # a server alone waits for nobody
            self._introduce(asks=True)

    @abstractmethod
    def _refuse(self, client: ClientToken) -> None:
        """Tell a client that it has to look elsewhere."""

    def on_stranger(self, request: Stranger, client: ClientToken) -> None:
        """A client of another cluster: it must not take our answers for that one's."""
        made = self.making.made
        assert made is not None  # frames of any cluster pass while this server belongs to none
        self._counters["refused_clients"] += 1
        self._reply(client, OtherCluster(made.name, made.identity, request.identity))

    @abstractmethod
    def _on_recovered(self, *, fresh: bool) -> None:
        """Disk replayed, or cluster made; `fresh` if nothing was ever promised here."""
