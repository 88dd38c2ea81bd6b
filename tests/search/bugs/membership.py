"""Bugs to plant in the change of members (docs/membership.md); search and simulator find them."""

from __future__ import annotations

from typing import Any
from unittest import mock

from msgspec import structs

from paxon.actors import Ballot, PaxosServer, ServerId
from paxon.actors.ballot import EPOCH_BITS
from paxon.actors.disk.storage import SnapshotInfo, Storage
from paxon.actors.environment import NEVER
from paxon.actors.execution.application import Application
from paxon.actors.log import SlotLog
from paxon.actors.messages import (
    NO_OP,
    Accepted,
    CountAnswer,
    CountQuestion,
    Introduction,
    PeerMessage,
    Query,
    Sealed,
)
from paxon.actors.parts import status
from paxon.actors.parts.membership import Membership
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.configuration import Configuration, decode_config, is_config
from paxon.actors.records.disks import Confirmation
from paxon.actors.records.reign import Reign
from tests.search.planted import Original, PlantedBug, always, planted

__all__ = ["MEMBERSHIP"]

MEMBERSHIP: list[PlantedBug] = []


def _plant(name: str, description: str, *patches: Any) -> None:
    MEMBERSHIP.append(planted(name, description, *patches))


# --- taking over ---------------------------------------------------------------------------------

_plant(
    "no CONFIG is void",
    "a CONFIG is proposed again although a row above it has a higher ballot",
    (Candidacy, "_is_void", always(False)),
)


def _nothing_dropped(original: Original) -> Any:
    def takeover(self: Candidacy, first: int, *known: Any) -> tuple[list[tuple[int, bytes]], bool]:
        values, sealing = original(self, first, *known)
        last = values[-1][0] if values else first - 1
        above = [slot for slot in sorted(self._reported) if slot > last]
        return values + [(slot, self._reported[slot].value) for slot in above], sealing

    return takeover


_plant(
    "nothing is dropped above a CONFIG",
    "what was reported above a CONFIG in lower ballots is proposed again, too",
    (Candidacy, "takeover", _nothing_dropped),
)


def _every_config_is_void(original: Original) -> Any:
    def takeover(self: Candidacy, first: int, *known: Any) -> tuple[list[tuple[int, bytes]], bool]:
        values, _ = original(self, first, *known)
        return [(slot, NO_OP if is_config(value) else value) for slot, value in values], False

    return takeover


_plant(
    "a CONFIG is given up at a takeover",
    "a new leader proposes a no-op in place of any CONFIG that it is told of",
    (Candidacy, "takeover", _every_config_is_void),
)


def _goes_on(original: Original) -> Any:
    def propose_config(self: PaxosServer, reign: Reign) -> None:
        original(self, reign)
        reign.holds_back = False

    return propose_config


_plant(
    "a value above a CONFIG",
    "a leader goes on with commands once it has proposed a CONFIG",
    (PaxosServer, "_propose_config", _goes_on),
)


def _serves_at_once(original: Original) -> Any:
    def take_over(self: PaxosServer, candidacy: Candidacy) -> None:
        original(self, candidacy)
        if self._reign is not None and self._reign.sealing:
            self._reign.sealing = False
            self._reign.takeover_end -= 1

    return take_over


_plant(
    "reads above a CONFIG that is taken over",
    "who proposes a CONFIG again answers reads, by rounds and by leases, before it is executed",
    (PaxosServer, "_take_over", _serves_at_once),
)


def _lease_goes_on(original: Original) -> Any:
    def propose_config(self: PaxosServer, reign: Reign) -> None:
        original(self, reign)
        reign.sealing = False

    return propose_config


_plant(
    "a lease above a CONFIG",
    "who has proposed a CONFIG still answers reads by its lease",
    (PaxosServer, "_propose_config", _lease_goes_on),
)


def _no_op_above(original: Original) -> Any:
    def take_over(self: PaxosServer, candidacy: Candidacy) -> None:
        original(self, candidacy)
        reign = self._reign
        if reign is not None and reign.sealing:
            self._propose(reign, reign.next_slot, NO_OP)
            reign.next_slot += 1

    return take_over


_plant(
    "a no-op above a CONFIG that is taken over",
    "a new leader has a slot of its own chosen above a CONFIG, too",
    (PaxosServer, "_take_over", _no_op_above),
)


def _lease_above_taken_over(original: Original) -> Any:
    def on_query(self: PaxosServer, query: Query, client: Any) -> None:
        reign = self._reign
        if (
            reign is not None and reign.sealing and query.mode == "lease"
            and reign.own_slot_at == NEVER and self.application.executed >= reign.takeover_end - 1
        ):  # fmt: skip
            reign.sealing = False
            holds = self._lease_holds()
            reign.sealing = True
            if holds:
                self._answer_query(client, query)
                return
        original(self, query, client)

    return on_query


_plant(
    "a lease kept when a CONFIG is proposed again",
    "who has taken a CONFIG over answers reads by its lease",
    (PaxosServer, "on_query", _lease_above_taken_over),
)


def _reads_between(original: Original) -> Any:
    def on_query(self: PaxosServer, query: Query, client: Any) -> None:
        if self._opening is not None and self.is_member and query.mode != "stale":
            self._answer_query(client, query)
        else:
            original(self, query, client)

    return on_query


_plant(
    "reads between seal and opening",
    "who knows that an epoch has ended answers reads before anybody leads in the next",
    (PaxosServer, "on_query", _reads_between),
)


# --- who counts ----------------------------------------------------------------------------------


def _old_majority(original: Original) -> Any:
    def join(self: PaxosServer, configuration: Configuration) -> None:
        majority = self._majority
        original(self, configuration)
        if configuration.epoch:
            self._majority = majority

    return join


_plant(
    "majority by the old configuration",
    "as many as before make a majority, whoever the voters are",
    (PaxosServer, "_join", _old_majority),
)


def _all_vote(original: property) -> Any:
    return property(lambda self: {m.server: 1 << n for n, m in enumerate(self.members)})


_plant(
    "a learner's vote counts",
    "what a learner accepts counts towards a majority",
    (Configuration, "bits", _all_vote),
)


def _let_all_in(original: Original) -> Any:
    def admit(
        self: Membership, sender: int, incarnation: int, messages: list[PeerMessage]
    ) -> list[PeerMessage]:
        if sender in self.disks.incarnations or not self._host.configuration.epoch:
            return original(self, sender, incarnation, messages)  # type: ignore[no-any-return]
        self.disks.incarnations[sender] = incarnation  # as if it were a member still
        return messages

    return admit


_plant(
    "a removed server is obeyed",
    "what a server says counts though it is no member any more",
    (Membership, "admit", _let_all_in),
)


def _any_in_force(original: Original) -> Any:
    def on_introduction(self: Membership, said: Introduction, sender: ServerId) -> None:
        if said.in_force and self.making.made is None:
            said = structs.replace(said, to=self.making.incarnation)
        original(self, said, sender)

    return on_introduction


_plant(
    "an unasked cluster is believed",
    "an empty directory takes what members of any cluster say unasked for an answer",
    (Membership, "on_introduction", _any_in_force),
)


# --- the seal ------------------------------------------------------------------------------------


def _no_configuration(original: Original) -> Any:
    def image(self: Application) -> Any:
        held, self.configuration = self.configuration, b""
        made = list(original(self))
        self.configuration = held
        return made

    return image


_plant(
    "no configuration in the image",
    "a snapshot does not tell in which epoch it is",
    (Application, "image", _no_configuration),
)


def _rows_kept(original: Original) -> Any:
    def save_seal(self: Storage, configuration: Configuration) -> None:
        self._marks.configuration = configuration
        self._marks.chosen_to = max(self._marks.chosen_to, configuration.sealed_at)
        self.dirty = True

    return save_seal


_plant(
    "rows above the seal are kept",
    "what an epoch has left above its seal stays on the disk",
    (Storage, "save_seal", _rows_kept),
)


def _promises_early(original: Original) -> Any:
    def on_sealed(self: PaxosServer, sealed: Sealed, sender: int) -> None:
        original(self, sealed, sender)
        first = Ballot.first_of(sealed.epoch + 1)
        if first > self.promised and self.role == "follower":
            self.promised = first
            self._storage.save_promise(first)

    return on_sealed


_plant(
    "a promise before the prefix is there",
    "a server is in the next epoch as soon as it is told of the seal",
    (PaxosServer, "on_sealed", _promises_early),
)


def _stored_early(original: Original) -> Any:
    def learn(self: PaxosServer, accepted: Accepted, teller: int) -> bool:
        if accepted.ballot.epoch > self.configuration.epoch and accepted.slot > self.log.chosen_to:
            checksum = self.log.accept(accepted.slot, accepted.ballot, accepted.value)
            self._storage._marks.promised = max(self.promised, accepted.ballot)
            self._storage.save_accepted(accepted.slot, accepted.ballot, accepted.value, checksum)
            return True
        return original(self, accepted, teller)  # type: ignore[no-any-return]

    return learn


def _any_ballot(_original: Original) -> Any:
    def follows(self: PaxosServer, ballot: Ballot, teller: int) -> bool:
        self.adopt(ballot)
        return True

    return follows


_plant(
    "an epoch is entered by a ballot",
    "whatever ballot is above the promise is adopted, though it is of an epoch yet to begin here",
    (PaxosServer, "_follows", _any_ballot),
)


def _any_epoch(original: Original) -> Any:
    def report(self: Candidacy, accepted: Accepted) -> None:
        best = self._reported.get(accepted.slot)
        if best is None or accepted.ballot > best.ballot:
            self._reported[accepted.slot] = accepted

    return report


_plant(
    "a later epoch's row before the seal",
    "a chosen value of a later epoch is stored and reported by who does not know the seal",
    (PaxosServer, "_learn", _stored_early),
    (Candidacy, "report", _any_epoch),
)


def _not_cut(original: Original) -> Any:
    def seal(self: SlotLog, slot: int) -> None:
        held = {above: row for above, row in self._slots.items() if above > slot}
        size = sum(len(row.value) for row in held.values())
        original(self, slot)
        self._slots.update(held)
        self.last = max(held, default=self.last)
        self.value_bytes += size

    return seal


def _by_round_alone(original: Original) -> Any:
    def report(self: Candidacy, accepted: Accepted) -> None:
        best = self._reported.get(accepted.slot)
        rounds = (1 << EPOCH_BITS) - 1
        if best is None or accepted.ballot.round & rounds > best.ballot.round & rounds:
            self._reported[accepted.slot] = accepted

    return report


_plant(
    "rows above the seal are kept, and epochs not compared",
    "what an epoch has left above its seal is reported in the next, and counts by its round",
    (Storage, "save_seal", _rows_kept),
    (SlotLog, "seal", _not_cut),
    (Candidacy, "report", _by_round_alone),
)


def _above_a_gap(original: Original) -> Any:
    def look_for_seal(self: PaxosServer) -> None:
        slot = min(self.log.configs)
        held = self.log.get(slot)
        if held is not None and held.chosen and slot > self.log.chosen_to:
            self._enter(decode_config(held.value), slot)
            return
        original(self)

    return look_for_seal


_plant(
    "a seal above a gap",
    "a server is in the next epoch though it lacks slots below the seal",
    (PaxosServer, "_look_for_seal", _above_a_gap),
)


_plant(
    "the newest configuration is not asked",
    "a started server is confirmed by a majority of its own directory's configuration",
    (Confirmation, "_hear_of", always(0)),
    (Confirmation, "hear_of_epoch", always(False)),
)


def _tell_what_is_accepted(original: Original) -> Any:
    def on_count_question(self: Membership, question: CountQuestion, sender: ServerId) -> None:
        before, log = self._host.configuration, self._host.log
        held = log.get(max(log.configs, default=0))
        if held is not None:
            self._host.configuration = decode_config(held.value)
        original(self, question, sender)
        self._host.configuration = before

    return on_count_question


_plant(
    "a CONFIG told before it is chosen",
    "a server that has accepted one tells a started one of it as of the configuration in force",
    (Membership, "on_count_question", _tell_what_is_accepted),
)


def _seal_ignored(original: Original) -> Any:
    def hear_of(self: Confirmation, answer: CountAnswer, sender: ServerId) -> int:
        told: int = original(self, answer, sender)
        self.seal = None
        return told

    return hear_of


_plant(
    "a seal is told and ignored",
    "a started server is told how its epoch ended, votes there no more, and does not learn it",
    (Confirmation, "_hear_of", _seal_ignored),
)


_plant(
    "an epoch is entered unasked",
    "an old copy that catches up with an epoch in which it has voted before votes there again",
    (Confirmation, "enters", always(False)),
)


# --- how a change ends ---------------------------------------------------------------------------


def _done_when_chosen(original: Original) -> Any:
    def outcome(server: PaxosServer, request: int, ballot: Ballot) -> Any:
        if server.configuration.epoch and request == server.configuration.request:
            return "done", ""
        return original(server, request, ballot)

    return outcome


_plant(
    "a change answered when chosen",
    "a change is called done by whoever knows the seal, though no leader has opened the epoch",
    (status, "outcome", _done_when_chosen),
)


def _anybody_settles(original: Original) -> Any:
    def outcome(server: PaxosServer, request: int, ballot: Ballot) -> Any:
        held = server.log.get(server.application.executed)
        if server._reign is None and held is not None and held.ballot > ballot:
            known = (*server.configuration.earlier, server.configuration.request)
            if request not in known:
                return "not done", ""
        return original(server, request, ballot)

    return outcome


_plant(
    "a change called settled by a follower",
    "who has executed a slot of a later ballot says that a change it does not know is not done",
    (status, "outcome", _anybody_settles),
)


def _settled_by_takeover(original: Original) -> Any:
    def outcome(server: PaxosServer, request: int, ballot: Ballot) -> Any:
        told = original(server, request, ballot)
        if told == ("unknown", "") and server._reign is not None and ballot < server.promised:
            return "not done", ""
        return told

    return outcome


_plant(
    "no slot of its own before it says so",
    "a new leader says that a change is not done before it has a slot of its own chosen",
    (status, "outcome", _settled_by_takeover),
)

_plant(
    "a refusal is forgotten",
    "a copy of a request that was refused is taken up after all",
    (Reign, "note_asked", always(None)),
)


def _any_directory(original: Original) -> Any:
    def admit(
        self: Membership, sender: int, incarnation: int, messages: list[PeerMessage]
    ) -> list[PeerMessage]:
        if sender in self.disks.incarnations:
            return messages
        return original(self, sender, incarnation, messages)  # type: ignore[no-any-return]

    return admit


_plant(
    "the old directory's late P2B counted",
    "a member is known by its id, whatever directory it comes with",
    (Membership, "admit", _any_directory),
)


def _by_id(original: Original) -> Any:
    def votes(self: Configuration, server: int, incarnation: int) -> bool:
        return server in self.voters

    return votes


_plant(
    "a vote in another's name",
    "who joins to replace a server votes in its name before it has its place",
    (Configuration, "votes", _by_id),
)

_plant(
    "a removed directory is taken back",
    "who was removed may be added again, with what it has forgotten",
    (Configuration, "removed", lambda _original: property(lambda self: ())),
)


def _two_transactions(original: Original) -> Any:
    def become(self: PaxosServer, info: SnapshotInfo) -> None:
        with mock.patch.object(self, "_look_for_seal"):
            original(self, info)
        self._look_for_seal()

    return become


_plant(
    "a seal behind a snapshot is stored later",
    "a CONFIG that is chosen once a snapshot has come is stored as chosen, and the seal after that",
    (PaxosServer, "become", _two_transactions),
)


def _leads_on(original: Original) -> Any:
    def look_for_vote(self: PaxosServer) -> None:
        with mock.patch.object(self, "_step_down"):
            original(self)

    return look_for_vote


_plant(
    "a vote is lost and the lead is not",
    "who is told of a later epoch while it leads, or tries to, goes on",
    (PaxosServer, "look_for_vote", _leads_on),
)
