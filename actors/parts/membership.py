"""How the cluster came together, and its members: by their directories, and where they are.

In order: making the cluster, once (docs/design/making-a-cluster.md); joining one; knowing each
member by its directory, and rehearsing a change of them (docs/membership.md); addresses, which are
hints (docs/design/addresses.md); and making sure that this server's own directory is not an old
copy, before anything else goes on (docs/design/old-copies.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import structs

from paxon.actors.ballot import MOST_SERVERS, NO_BALLOT, Ballot, ServerId, in_list
from paxon.actors.disk.storage import Recovered, Storage
from paxon.actors.environment import NEVER, ClientToken, ServerBurst
from paxon.actors.execution.agreed import encode_agreed
from paxon.actors.members import (
    AskMembers,
    ChangeMembers,
    Member,
    MemberChange,
    Rehearsal,
    Rehearsed,
)
from paxon.actors.messages import (
    P1A,
    P2A,
    Addresses,
    CatchUp,
    CatchUpRequest,
    CountAnswer,
    CountQuestion,
    DigestRequest,
    Heartbeat,
    HeartbeatReply,
    Introduction,
    Made,
    PeerMessage,
    Place,
    PreVote,
    QueryReply,
    ReplyStatus,
    Sealed,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
)
from paxon.actors.parts.host import Host, Part
from paxon.actors.parts.status import members_now
from paxon.actors.records.changing import Changing, Rehearsing, members_wanted
from paxon.actors.records.configuration import Configuration, encode_config, epoch_of
from paxon.actors.records.disks import Confirmation, KnownDisks
from paxon.actors.records.making import Making
from paxon.actors.records.places import TOLD_AT_ONCE, Places, can_be_dialled, plausible
from paxon.actors.records.reign import MOVES_SECONDS, Reign, is_level
from paxon.transport.log import logger

__all__ = ["Membership"]

CHECK_INTERVAL = 5.0
"""Seconds after which a server asks all others anew how many commits of its own they remember …"""
DOUBT_INTERVAL = 1.0
"""… if it was not told of too many, or of another directory; and then whoever has not answered."""
FROM_ANYBODY = frozenset((
    CatchUp, CatchUpRequest, SnapshotOffer, SnapshotRequest, SnapshotChunk, Sealed, Introduction,
    CountQuestion, CountAnswer, DigestRequest, Rehearsal, Rehearsed,
))  # fmt: skip
"""Messages that are let through from any server of the cluster, whatever its directory and epoch:
what is chosen, and questions (docs/membership.md, M13)."""

SAY_FIRST, SAY_AGAIN = 2.0, 30.0
"""Seconds after which a server that takes no part yet says what it waits for, and says so again."""
JOINING_SECONDS = 5.0
"""A server that has not said for so long that it waits to join is no longer named."""

LEADING = frozenset((P1A, P2A, Heartbeat, PreVote))
"""From leaders and candidates: one of another epoch is answered with where that ended."""


class Membership(Part):
    """The members of the cluster, as one server knows them."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        settings, self._random = host.settings, host._random
        self.making = Making(settings)
        self.places = Places(settings)
        self.disks = KnownDisks()
        self.confirmation = Confirmation(settings.server, 0, 0, 0.0, pending=False)
        self.joining: dict[ServerId, tuple[Member, int, float]] = {}
        """Servers that want to become members: how far each holds the log, when it last said so."""
        self._rehearsing: Rehearsing | None = None
        self._said, self._say_at = "", NEVER
        """The last sentence on what this server waits for, and when to say it next."""
        self._open = False
        self.joined: Configuration | None = None
        """The configuration in force here; None before the cluster is."""

    def recover(self, found: Recovered, storage: Storage) -> None:
        """Take up what the directory holds."""
        self._storage = storage
        self.making.recover(storage.incarnation, found.made, in_force=found.in_force)
        self.places.recover(storage.incarnation, found.places)

    def open(self) -> None:
        """The sockets are open: dial the others, and make the cluster if it is not made."""
        made = self.making.made
        if made is not None:
            self._outbox.network.identify(made.identity, in_force=self.making.in_force)
        self._open = True
        self._meet()
        self._dial_all()
        if not self.making.in_force:
            self._make_on()  # a server alone waits for nobody
            self.introduce(asks=True)

    def join(self, configuration: Configuration) -> None:
        """These are the members, from here on."""
        first, self.joined = self.joined is None, configuration
        self.confirmation.note_part(member=self._host.is_member)
        if configuration.epoch >= self.confirmation.newest.epoch:
            self.confirmation.newest = configuration
        me, now = self._settings.server, self._outbox.now
        members = configuration.incarnations
        self.disks.join({s: number for s, number in members.items() if s != me}, now)
        self.making.joins = members.get(me) != self.making.incarnation
        self.places.join(configuration.members, now)
        if self.confirmation.enters(configuration):
            self._ask_for_counts()
        self._meet()
        self._dial_all()
        stale = set(members) != set(self._settings.servers) and not self._settings.join
        if first and stale:
            logger.warning(
                "server {} was told of {}, but the members of its cluster are {}: these stay in "
                "force, since members come from the data directory "
                "(docs/design/making-a-cluster.md)",
                me, in_list(sorted(self._settings.servers)), in_list(configuration.servers),
            )  # fmt: skip

    @property
    def waits_for(self) -> str:
        """The reason why this server takes no part yet, for people; "" if it does."""
        if not self.making.in_force:
            return self.making.waits_for()
        if self.confirmation.pending:
            return self.confirmation.waits_for()
        known = self._host.configuration.find(self._settings.server) is not None
        return self.making.waits_to_join(known=known) if self.making.joins else ""

    # --- before this server takes part -----------------------------------------------------------

    def handle(self, burst: ServerBurst) -> None:
        """Handle what may be before the cluster is in force, and this directory no old copy.

        Servers may introduce themselves, and ask and answer how far directories are.
        """
        unconfirmed = self.making.in_force
        heard = (Introduction, CountQuestion, CountAnswer) if unconfirmed else (Introduction,)
        for server in burst.lost:
            self.making.forget(server)
        for sender, _, received in burst.peers:
            for message in received:
                if type(message) in heard:
                    self._host._peer_handlers[type(message)](message, sender)
                elif unconfirmed and self.confirmation.hear_of_epoch(epoch_of(message), sender):
                    self.confirmation.ask_at = self._outbox.now

    @property
    def ask_at(self) -> float:
        """When to ask the others (again) for what this server waits for, monotonic seconds."""
        return self.confirmation.ask_at if self.making.in_force else self.making.ask_at

    def on_timer(self) -> None:
        """Ask those that have not answered; a time may have passed that changes how many must."""
        making, confirmation, now = self.making, self.confirmation, self._outbox.now
        if not making.in_force:
            making.ask_again()
            self.introduce(asks=True)
        else:
            self._settle_confirmation()
            if not confirmation.pending:
                return
            confirmation.ask_at = now + self._settings.retransmit_interval
            self._ask_for_counts()
        text = self.waits_for
        if text != self._said:
            self._said, self._say_at = text, min(self._say_at, now + SAY_FIRST)
        if now >= self._say_at:
            self._say_at = now + SAY_AGAIN
            what = "" if making.in_force else ": its cluster is not in force:"
            logger.warning("server {}{} {}", self._settings.server, what, text)

    # --- making the cluster ----------------------------------------------------------------------

    def on_introduction(self, said: Introduction, sender: ServerId) -> None:
        """Make the cluster together, or tell a server that does not know it which one this is."""
        if said.made is not None and not said.made.plausible:
            self._oddities.malformed(said, sender)
            return
        if not plausible(said.places):
            self._oddities.malformed(said, sender)
            said = structs.replace(said, places=())  # they are but hints
        if self.making.made is None and said.in_force and said.to != self.making.incarnation:
            return  # a cluster that was not asked may be any that takes this address for its own
        own = self.making.may_be_of(said)
        if not own and self.making.in_force and said.in_force:
            self._oddities.foreign(said, sender)
            return
        place = said.place_of(sender)
        if place is not None and own:
            self._hear_places(said, place)
        if self.making.in_force:
            self._hear_of_joining(said, sender)
        elif sender != self._settings.server:
            found = self.making.hear(said, sender)
            if found is not None:
                self._store_made(found, in_force=self.making.joins)
            self._make_on()
        if said.asks:
            self.introduce(sender, to=said.incarnation)

    def _make_on(self) -> None:
        """Make the cluster if that is up to this server, and note when it has come into force."""
        making = self.making
        if making.ready():
            identity = 1 + self._random.getrandbits(62)
            self._store_made(
                making.make(identity, encode_agreed(self._application.agreed)), in_force=False
            )
        if not making.in_force and making.complete():
            assert making.made is not None
            self._storage.save_made(making.made, in_force=True)
            self._come_into_force(making.made)

    def _store_made(self, made: Made, *, in_force: bool) -> None:
        """Belong to this cluster from now on, and tell all, so that it may come into force."""
        self._application.begin_with(made)
        self.making.store(made)
        self._storage.save_made(made, in_force=in_force)
        self._outbox.network.identify(made.identity, in_force=False)
        if in_force:
            self._come_into_force(made)
        self.making.ask_at = self._outbox.now

    def _come_into_force(self, made: Made) -> None:
        """Every member has stored it."""
        self.making.in_force = True
        self._host.come_into_force(made)
        self._outbox.network.identify(made.identity, in_force=True)
        self.introduce()  # so that the others need not ask again
        self._dial_all()
        self._save_places()
        logger.info(
            "server {}: cluster {!r} ({:016x}) of {} is in force",
            self._settings.server, made.name, made.identity, in_list(made.servers),
        )  # fmt: skip

    def introduce(self, *servers: ServerId, asks: bool = False, to: int = 0) -> None:
        """Say who and where this is, and what it holds.

        To these servers, or to all that have a part in the cluster, or should.
        """
        making, held = self.making, self._host.log.chosen_to
        said = making.introduction(to=to, asks=asks, places=self.places.known, chosen_to=held)
        if not servers:
            making.ask_at = self._outbox.now + self._settings.heartbeat_interval
            made = () if making.made is None else making.made.servers
            part = {*making.listed, *(self.disks.incarnations or made)}
            servers = tuple(sorted(part - {making.server}))
        for server in servers:
            self._outbox.send(server, said)

    # --- joining a cluster that is in force (docs/membership.md) ---------------------------------

    def _hear_of_joining(self, said: Introduction, sender: ServerId) -> None:
        mine, theirs = self.making.made, said.made
        known = mine is not None and theirs is not None and theirs.identity == mine.identity
        if said.joins and known:  # (until its directory knows the cluster, it could not come back)
            place = said.place_of(sender)
            told = ("", "") if place is None else (place.peer, place.client)
            member = Member(sender, said.incarnation, False, *told)
            self.joining[sender] = member, said.chosen_to, self._outbox.now
            if said.rejoins and member in self.wait_to_join():
                self._hear_of_rejoining(member, said.chosen_to)
        elif known and said.in_force and not said.joins:
            host = self._host
            if self._settings.join or not host.is_member:
                now, held = self._outbox.now, host.log.chosen_to
                host.catching_up.hear_outside(sender, said.chosen_to, held, now)

    def wait_to_join(self) -> dict[Member, int]:
        """The servers that wait to become members, and how far each holds the log."""
        configuration, since = self._host.configuration, self._outbox.now - JOINING_SECONDS
        return {
            member: held
            for _, (member, held, at) in sorted(self.joining.items())
            if at > since
            and member.incarnation not in configuration.removed
            and configuration.incarnations.get(member.server) != member.incarnation
        }

    # --- members, known by their directories -----------------------------------------------------

    def admit(
        self, sender: ServerId, incarnation: int, messages: list[PeerMessage]
    ) -> list[PeerMessage]:
        """The messages to hear from a server that is no member by this directory (M12, M13).

        What is chosen, and questions; it may change nothing with anything else.
        """
        reign, epoch = self._host._reign, self._host.configuration.epoch
        member = sender in self.disks.incarnations
        if reign is not None and not member:
            for reply in messages:
                if type(reply) is HeartbeatReply and reply.ballot == self._host.promised:
                    reign.leaving.discard(sender)  # it has heard who leads now
        heard = [
            m for m in messages
            if type(m) in FROM_ANYBODY or (type(m) in LEADING and epoch_of(m) != epoch)
        ]  # fmt: skip
        if (
            member
            and len(heard) < len(messages)
            and self._oddities.first("refused_incarnations", 1000)
        ):
            logger.warning(
                "server {} comes with another disk than before and is refused: give it its old "
                "data directory back, or start it with --rejoin",
                sender,
            )
        return heard

    # --- a leader is to change them (docs/membership.md, M16 to M20) -----------------------------

    def alive(self) -> list[ServerId]:
        """Which other members were heard of late."""
        since = self._outbox.now - self._settings.election_timeout_max
        return [server for server, at in self.disks.heard_at.items() if at > since]

    def on_change_members(self, request: ChangeMembers, client: ClientToken) -> None:
        """Somebody wants other members: the leader takes it up, or says why not (M16, M17)."""
        host, reign = self._host, self._host._reign
        if reign is None or request.ballot > host.promised:  # (then another leads by now)
            host._refuse(client)
            return
        fresh = request.ballot == host.promised and request.id not in reign.asked
        if fresh and host._serves() is not None:
            reign.note_asked(request.id, self.take_up(reign, request))
        self._tell(client, request.id, request.id, request.ballot)

    def on_ask_members(self, request: AskMembers, client: ClientToken) -> None:
        """Tell who the members are; a leader is to know how an earlier one's change ended (M8)."""
        reign = self._host._reign
        if reign is not None and request.request and request.ballot < self._host.promised:
            soon = NEVER if reign.sealing else self._outbox.now
            reign.own_slot_at = min(reign.own_slot_at, soon)
            self._host._plan_chores(reign)
        self._tell(client, request.id, request.request, request.ballot)

    def _tell(self, client: ClientToken, number: int, request: int, ballot: Ballot) -> None:
        told = msgspec.msgpack.encode(members_now(self._host, request, ballot))
        self._outbox.reply(client, QueryReply(number, ReplyStatus.OK, told))
        self._host.reception.count_work(client, len(told))

    def take_up(self, reign: Reign, request: ChangeMembers) -> str:
        """Have the members changed so; or why not, and what to do, in a sentence (M17)."""
        if reign.holds_back or reign.changing is not None:
            return "another change of the members is under way: wait until that is done"
        alive, me = self.alive(), self._settings.server
        log, executed = self._host.log, {s: one.executed for s, one in reign.followers.items()}
        fit = {s: self.disks.incarnations[s] for s in alive if is_level(executed[s], log)}
        fit[me] = self.making.incarnation
        told = reign.behind(alive, self._host.log.chosen_to)
        keys = self._outbox.network.keys()
        members = members_wanted(request, self.located(), [*alive, me], fit, told, keys=keys)
        if isinstance(members, str):
            return members
        until = self._outbox.now + self._settings.election_timeout_max
        reign.changing = Changing(members, request.id, until, keys)
        self.rehearse_change(reign, reign.changing)
        return ""

    def look_for_moves(self, reign: Reign) -> None:
        """The configuration follows members that say that they are elsewhere, and are heard (M20).

        Once a minute at most: addresses that flap must not change the epoch with each heartbeat.
        """
        reign.moves_at = self._outbox.now + MOVES_SECONDS
        moved = self.places.moved(self._host.configuration.members, self.alive())
        if moved and self._host.configuration.epoch:  # (the first one has no addresses)
            self._ask(reign, moved)

    def _hear_of_rejoining(self, member: Member, chosen_to: int) -> None:
        """A member's new directory asks for the place of the one that was lost (M19)."""
        reign, server = self._host._serves(), member.server
        if reign is None or reign.holds_back or reign.changing is not None:
            return
        known = self._host.configuration.find(server) is not None
        if not known or not is_level(chosen_to, self._host.log):
            return
        place = MemberChange("replace", server, member.incarnation, member.peer, member.client)
        refusal = self._ask(reign, (place,))
        if refusal and self._oddities.first("refused_rejoins", 100):
            logger.warning(
                "server {} has another data directory now, and cannot have its place back: {}",
                server, refusal,
            )  # fmt: skip

    def _ask(self, reign: Reign, changes: tuple[MemberChange, ...]) -> str:
        """The leader itself wants a change."""
        number = 1 + self._random.getrandbits(62)
        return self.take_up(reign, ChangeMembers(number, self._host.promised, changes))

    def rehearse_change(self, reign: Reign, changing: Changing) -> None:
        """Have those that are to vote call each other (again), or give the change up (M18)."""
        if self._outbox.now >= changing.until:
            reign.changing = None
            reign.asked[changing.request] = changing.why_given_up()
            return
        me = self._settings.server
        for server in changing.voters:
            if server != me:
                self._outbox.send(server, Rehearsal(changing.request, changing.members))
        if me in changing.voters:
            self.rehearse(changing.request, changing.members, me)

    def _hear_rehearsal(self, said: Rehearsed, sender: ServerId) -> None:
        """One of those that are to vote has heard these: enough, perhaps, to propose the change."""
        reign = self._host._reign
        if reign is None or reign.changing is None or reign.changing.request != said.request:
            return
        enough = reign.changing.enough(sender, said.incarnation, said.heard)
        if enough and is_level(said.chosen_to, self._host.log):
            reign.holds_back = True

    # --- the rehearsal, at whoever is to vote ----------------------------------------------------

    def rehearse(self, request: int, members: Sequence[Member], leader: ServerId) -> None:
        """Call all that are to vote, where they are to be, and tell the leader who answers."""
        me = self._settings.server
        run = self._rehearsing
        if run is None or run.request != request:
            run = self._rehearsing = Rehearsing(request, leader, members)
        if not run.hear(me, self.making.incarnation) and me not in run.heard:
            return  # another directory of this server is meant
        for member in members:
            if member.voter and member.server != me and member.server not in run.heard:
                if self.places.hear_unknown(member.server, member.peer):
                    self._dial(member.server)
                self._outbox.send(member.server, self._rehearsed(request, asks=True))
        self._report(run)

    def on_rehearsal(self, said: Rehearsal, sender: ServerId) -> None:
        """A leader wants to know whom this server reaches."""
        sound = len(said.members) <= MOST_SERVERS and all(
            1 <= member.server <= MOST_SERVERS and can_be_dialled(member.peer)
            for member in said.members
        )
        if sound:
            self.rehearse(said.request, said.members, sender)
        else:
            self._oddities.malformed(said, sender)

    def on_rehearsed(self, said: Rehearsed, sender: ServerId) -> None:
        """Another voter to be calls, or answers; or tells this leader who has answered it."""
        run = self._rehearsing
        if said.asks:
            self._outbox.send(sender, self._rehearsed(said.request, asks=False))
        elif said.heard:
            self._hear_rehearsal(said, sender)
        elif run is not None and run.request == said.request and run.hear(sender, said.incarnation):
            self._report(run)

    def _rehearsed(
        self, request: int, *, asks: bool, heard: tuple[ServerId, ...] = ()
    ) -> Rehearsed:
        held = self._host.log.chosen_to
        return Rehearsed(request, self.making.incarnation, asks, heard, held)

    def _report(self, run: Rehearsing) -> None:
        said = self._rehearsed(run.request, asks=False, heard=tuple(sorted(run.heard)))
        if run.leader == self._settings.server:
            self._hear_rehearsal(said, run.leader)
        else:
            self._outbox.send(run.leader, said)

    # --- where they are: addresses are hints -----------------------------------------------------

    def _hear_places(self, said: Introduction, sender: Place) -> None:
        """Remember where servers are, and dial them there if this server's own file is wrong."""
        places = self.places
        if self.disks.incarnations.get(sender.server) != said.incarnation:
            if places.hear_unknown(sender.server, sender.peer):
                self._dial(sender.server)
            return
        changed = places.hear(said, sender.server, self._outbox.now)
        for server in changed:
            self._dial(server)
        if changed:
            self._save_places()
        if self._settings.server in changed:
            places.tell_all(self._outbox.now)

    def tell_clients(self, most: int = TOLD_AT_ONCE) -> None:
        """Servers have moved: tell clients that listen, though they may be silent."""
        addresses = self.client_places()
        for client in self.places.take_untold(most):
            self._outbox.reply(client, addresses)

    def client_places(self) -> Addresses:
        """Where clients reach all servers, and by which keys."""
        addresses, known = self.places.client_addresses(), self._outbox.network.keys()
        return Addresses(addresses, {s: key for s, key in known.items() if s in addresses})

    def on_places_timer(self) -> None:
        """Tell clients; tell servers again that have not answered, elsewhere if they never do."""
        self.tell_clients()
        asked, silent = self.places.ask_again(self._outbox.now)
        for server in silent:
            self._outbox.network.elsewhere(server)
        if asked:
            self.introduce(*asked, asks=True)

    def located(self) -> Configuration:
        """The configuration, with known addresses added where it does not tell them itself."""
        configuration = self._host.configuration
        members = tuple(
            structs.replace(
                member,
                peer=member.peer or next(iter(self.places.addresses(member.server)), ""),
                client=member.client or self.places.client_address(member.server),
            )
            for member in configuration.members
        )
        return structs.replace(configuration, members=members)

    def _meet(self) -> None:
        """Say whom this server talks to; before the cluster is in force the network knows."""
        if self._open and self.joined is not None:
            both = (*self.joined.leaving, *self.joined.members)
            keys = dict.fromkeys(self.places.unknown, "")
            if self.making.joins or self._settings.join:
                keys |= dict.fromkeys(self._settings.servers, "")
            keys |= {member.server: member.key for member in both}
            keys.pop(self._settings.server, None)
            self._outbox.network.meet(keys)

    def _dial(self, server: ServerId) -> None:
        if server not in self.disks.incarnations:
            self._meet()
        self._outbox.network.reach(server, self.places.addresses(server))

    def _dial_all(self) -> None:
        for server in self.disks.incarnations if self.places.active and self._open else ():
            self._dial(server)

    def _save_places(self) -> None:
        """With the next commit; soon, unless nothing may be stored yet."""
        if self.places.active:
            self._storage.save_places(self.places.known, lazily=self.confirmation.pending)

    # --- whether this directory is an old copy ---------------------------------------------------

    def begin_confirmation(self) -> None:
        """Ask the others about this directory before anything is stored or answered."""
        storage, now, in_force = self._storage, self._outbox.now, self.making.in_force
        newest = self._host.configuration
        alone = in_force and newest.voters == (self._settings.server,)
        pending = not storage.created and not alone
        self.confirmation = Confirmation(
            self._settings.server, storage.incarnation, storage.count, now,
            pending=pending, made_here=storage.created, may_store=not in_force, newest=newest,
            asked_at=now - DOUBT_INTERVAL,
            listed=self._settings.servers if self._settings.join else (),
        )  # fmt: skip
        self.confirmation.note_part(member=self._host.is_member)  # alone, it asks nobody
        if storage.moved:
            logger.warning(
                "server {}: its database is another file than the one that it wrote last: a copy "
                "was put back. It serves once all other servers have said that they know of no "
                "later state of it, or after {} s a majority",
                self._settings.server, self._settings.election_timeout_max,
            )  # fmt: skip
            self.confirmation.all_until = now + self._settings.election_timeout_max

    def _ask_for_counts(self) -> None:
        confirmation = self.confirmation
        if not confirmation.life:
            confirmation.life = 1 + self._random.getrandbits(62)
        storage, unanswered = self._storage, confirmation.unanswered()
        question = CountQuestion(confirmation.life, storage.incarnation, storage.count)
        for server in unanswered:
            self._outbox.send(server, question)
        if confirmation.waits and unanswered and self.places.active:
            self.introduce(*unanswered, asks=True)  # it may have moved: the answers have to find it

    def on_count_question(self, question: CountQuestion, sender: ServerId) -> None:
        """Say what is known here of a server's directory."""
        answer = self.disks.answer(question, sender)
        if answer is not None:
            configuration = self._host.configuration
            config = encode_config(configuration) if configuration.epoch else b""
            held = self._host.log.get(configuration.sealed_at)
            answer = structs.replace(
                answer, configuration=config, sender=self._storage.incarnation,
                ballot=NO_BALLOT if held is None else held.ballot,
            )  # fmt: skip
            self._outbox.send(sender, answer)

    def on_count_answer(self, answer: CountAnswer, sender: ServerId) -> None:
        """Stop if this directory is not what the others know; else take part with a majority.

        An answer to the question of the start counts even if a majority was quicker with theirs.
        """
        confirmation, storage = self.confirmation, self._storage
        if answer.life != confirmation.life or not confirmation.life:
            return
        # What was told since the start may be remembered by now, and is on this disk.
        held = storage.count if confirmation.told else confirmation.count
        confirmation.check_count(answer, sender, held)
        denial = confirmation.denial(answer, storage.count + 1, storage.count + storage.dirty)
        if denial is not None:
            self._outbox.send(sender, denial)
        confirmation.hear(answer, sender, joins=self.making.joins)
        confirmation.check_hope()
        if confirmation.pending:
            self._settle_confirmation()
            return
        confirmation.settle(self._outbox.now)
        self._host.look_for_vote()  # what was told of a later epoch may be taken back

    def ask_who_told(self) -> None:
        """Ask those again that sent something of a later epoch: it may have been a damaged frame.

        Where an answer told how this epoch ends, that is known: its sender may be gone.
        """
        confirmation = self.confirmation
        seal = confirmation.seal
        if seal is not None and seal.ballot.epoch == self._host.configuration.epoch:
            self._host.on_catch_up(CatchUp([seal], seal.slot), confirmation.seal_teller)
        if confirmation.entering:
            self._ask_for_counts()
            if confirmation.settle(self._outbox.now):  # a moved directory needs fewer after a while
                self._host.look_for_vote()
        question = CountQuestion(confirmation.life, self._storage.incarnation, self._storage.count)
        for server in confirmation.tellers() if confirmation.life else ():
            self._outbox.send(server, question)

    def _settle_confirmation(self) -> None:
        confirmation, now = self.confirmation, self._outbox.now
        if not confirmation.pending:
            return
        if not confirmation.settle(now):
            if confirmation.all_until > now:
                confirmation.ask_at = min(confirmation.ask_at, confirmation.all_until)
            return
        # Before anything leaves: what was found may not have been synced (a crash in a commit).
        self._storage.maintain(tidy=False)
        self._save_places()
        self._host.confirmed()

    def disks_known(self) -> list[tuple[ServerId, int, int]]:
        """By which directory, and how many commits of it, each server is known here."""
        known, counts = self.disks.incarnations, self.disks.counts
        own = (self._settings.server, self._storage.incarnation, self._storage.count)
        return [*((s, number, counts.get(s, 0)) for s, number in known.items()), own]

    def compare_disks(self, heartbeat: Heartbeat) -> None:
        """Learn from the leader how far all directories are, and doubt one's own if need be."""
        self.disks.hear(heartbeat)
        me, storage = self._settings.server, self._storage
        self.check_own_disk(doubts=any(
            server == me and (incarnation != storage.incarnation or count > storage.count)
            for server, incarnation, count in heartbeat.incarnations
        ))  # fmt: skip

    def check_own_disk(self, *, doubts: bool = False) -> None:
        """Ask now and then how this directory is known; whoever remembers too much is told so.

        One message is no proof, either: a majority's answers, and not a frame that doubts it, stop
        this server. Whom no answer reaches is asked until there is one: nobody else can tell what
        it was told.
        """
        confirmation, now = self.confirmation, self._outbox.now
        if self.making.joins or confirmation.entering:
            return
        anew = now >= confirmation.asked_at + (DOUBT_INTERVAL if doubts else CHECK_INTERVAL)
        if anew:
            confirmation.asked_at = now
            confirmation.ask_anew()
        if anew or (confirmation.life and now >= confirmation.ask_at):
            confirmation.ask_at = now + DOUBT_INTERVAL
            self._ask_for_counts()
