"""Tells what happens in a cluster, line by line, for the scenarios in tests/scenarios.

A `Narrator` is a watched cluster (`tests.protocol.watched`) that writes down each message that
arrives, what it changes at its receiver and what that sends. Its commands are the lines of a
scenario; docs/checks/scenarios.md describes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paxon.actors import Ballot, PaxosServer, ServerId
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    P2B,
    Accepted,
    CatchUp,
    CatchUpRequest,
    CommandReply,
    CommitNote,
    Handover,
    Heartbeat,
    HeartbeatReply,
    NotLeader,
    OpenSession,
    PeerMessage,
    PreVote,
    PreVoteReply,
    QueryReply,
    Sealed,
    ServerReply,
    SessionOpened,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    TransferLeader,
)
from paxon.transport import Burst
from tests.harness import Packet, text_of
from tests.protocol.watched import WatchedCluster

__all__ = ["Narrator", "ScenarioError", "KINDS"]


class ScenarioError(Exception):
    """A line of a scenario that makes no sense; the text says why."""


KINDS: dict[str, type] = {
    "P1A": P1A,
    "P1B": P1B,
    "P2A": P2A,
    "P2B": P2B,
    "heartbeat": Heartbeat,
    "heartbeat-reply": HeartbeatReply,
    "pre-vote": PreVote,
    "pre-vote-reply": PreVoteReply,
    "catch-up-request": CatchUpRequest,
    "catch-up": CatchUp,
    "snapshot-offer": SnapshotOffer,
    "snapshot-request": SnapshotRequest,
    "snapshot-chunk": SnapshotChunk,
    "handover": Handover,
    "commit-note": CommitNote,
    "sealed": Sealed,
}
TRANSFER = 1000
"""The number of the request to hand over, whose answer names a server."""


def _values(accepted: list[Accepted]) -> str:
    if not accepted:
        return "nothing accepted"
    return ", ".join(f"{a.slot}={text_of(a.value)} in {a.ballot}" for a in accepted)


def describe(message: PeerMessage) -> str:
    """A message in words, without what no reader of a scenario needs."""
    match message:
        case P1A(ballot, first_slot, after):
            why = f", handed over in {after}" if after else ""
            return f"P1A {ballot} from slot {first_slot}{why}"
        case P1B(ballot, _, _, accepted, chosen_to, discarded):
            known = f", chosen to {chosen_to}" if chosen_to else ""
            gone = f", discarded to {discarded}" if discarded else ""
            return f"P1B {ballot}: {_values(accepted)}{known}{gone}"
        case P2A(ballot, slot, value, commit):
            return f"P2A {ballot} slot {slot} = {text_of(value)}, commit {commit}"
        case P2B(ballot, first, last, promised):
            slots = f"slot {first}" if first == last else f"slots {first} to {last}"
            return f"P2B {ballot} {slots}" + (
                f": rejected, promised {promised}" if promised else ""
            )
        case Heartbeat(ballot, number, commit, discard_to):
            return f"heartbeat {ballot} round {number}, commit {commit}, discard to {discard_to}"
        case HeartbeatReply(ballot, number, executed):
            return f"heartbeat-reply {ballot} round {number}, executed {executed}"
        case PreVote(number, first_slot):
            return f"pre-vote {number} from slot {first_slot}"
        case PreVoteReply(number, granted):
            return f"pre-vote-reply {number}: {'yes' if granted else 'no'}"
        case CatchUpRequest(first_slot):
            return f"catch-up-request from slot {first_slot}"
        case CatchUp(accepted, chosen_to):
            return f"catch-up: {_values(accepted)}, chosen to {chosen_to}"
        case SnapshotOffer(slot):
            return f"snapshot-offer at slot {slot}"
        case SnapshotRequest(slot, offset):
            return f"snapshot-request at slot {slot} from byte {offset}"
        case SnapshotChunk(slot, offset, data):
            return f"snapshot-chunk at slot {slot}: {len(data)} bytes from {offset}"
        case Handover(ballot):
            return f"handover, {ballot} is over"
        case CommitNote(ballot, commit):
            return f"commit-note {ballot}, commit {commit}"
        case Sealed(epoch, slot, start):
            return f"sealed: epoch {epoch} ended with slot {slot}{', begin' if start else ''}"
        case _:  # about identities, counts, places and digests: the name says enough
            return type(message).__name__


@dataclass(slots=True)
class _View:
    """What a reader wants to know of a server, to compare before and after a step."""

    promised: Ballot
    epoch: int
    role: str
    held: dict[int, tuple[str, bool]]
    """Slot → what is accepted there, and whether it is known to be chosen."""
    discarded: int
    executed: int
    applied: list[bytes]

    @classmethod
    def of(cls, server: PaxosServer, applied: list[bytes]) -> _View:
        log = server.log
        held = {
            a.slot: (f"{text_of(a.value)} in {a.ballot}", log.status(a.slot) == "CHOSEN")
            for a in log.accepted_from(1)
        }
        return cls(
            server.promised, server.configuration.epoch, server.role, held, log.discarded,
            server.application.executed, list(applied),
        )  # fmt: skip


class Narrator(WatchedCluster):
    """A cluster that writes down what happens, and obeys a scenario's lines."""

    def __init__(self, size: int = 3, **options: Any) -> None:
        self.lines: list[str] = []
        self.quiet = False
        """Messages are not written down, only what they change."""
        self.held: list[Packet] = []
        """Messages that come later than all others."""
        self.session = 0
        """The session that was opened last: the client's."""
        self.numbers: dict[str, int] = {}
        """The client's sequence number of each text; sending a text again is trying again."""
        super().__init__(size, **options)

    # --- writing down ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self.lines.append(text)

    def view(self, server: ServerId) -> _View:
        return _View.of(self.servers[server], self.applied(server))

    def step(self, server: ServerId, burst: Burst[Any, Any] | None = None) -> None:
        before = self.view(server)
        waiting, told = len(self.packets), len(self.replies)
        for source, _, messages in burst.peers if burst is not None else []:
            for message in messages:
                if not self.quiet:
                    self.say(f"{source}->{server} {describe(message)}")
        super().step(server, burst)
        if server in self.retired:
            self.say(f"  {server} is no member any more, and stops")
        else:
            self._compare(server, before, self.view(server))
        self._tell_sent(self.packets[waiting:])
        for _, _, reply in self.replies[told:]:
            self.say(f"  {server} tells the client: {self._in_words(reply)}")

    def _tell_sent(self, packets: list[Packet]) -> None:
        """A message to several servers is one line."""
        if self.quiet:
            return
        targets: dict[tuple[ServerId, str], list[ServerId]] = {}
        for packet in packets:
            key = (packet.source, describe(packet.message))
            targets.setdefault(key, []).append(packet.target)
        for (source, text), to in targets.items():
            self.say(f"  {source} sends to {' and '.join(map(str, to))}: {text}")

    def _compare(self, server: ServerId, before: _View, after: _View) -> None:
        say = self.say
        if after.epoch != before.epoch:
            say(f"  {server} enters epoch {after.epoch}")
        if after.promised != before.promised:
            say(f"  {server} promises {after.promised}")
        if after.role != before.role:
            words = {"leader": "leads", "candidate": "tries to lead", "follower": "follows"}
            say(f"  {server} {words[after.role]}")
        for slot, (text, chosen) in after.held.items():
            held = before.held.get(slot)
            if held is None or held[0] != text:
                say(f"  {server} accepts {text}, slot {slot}")
            if chosen and (held is None or not held[1]):
                say(f"  {server} knows slot {slot} as chosen")
        if after.executed > before.executed:
            new = [c.decode() for c in after.applied[len(before.applied) :]]
            done = f": {' '.join(new)}" if new else ""
            say(f"  {server} has executed up to slot {after.executed}{done}")
        if after.discarded > before.discarded:
            say(f"  {server} discards up to slot {after.discarded}")

    def _in_words(self, reply: ServerReply) -> str:
        match reply:
            case SessionOpened(_, session):
                self.session = session
                return "session open"
            case CommandReply(_, seq, status, payload):
                text = next((t for t, n in self.numbers.items() if n == seq), str(seq))
                return f"{text} {status.name} ({payload.decode()})"
            case QueryReply(number, _, payload) if number == TRANSFER:
                return f"server {payload.decode()} is to lead"
            case QueryReply(_, status, payload):
                return f"read {status.name} ({payload.decode()})"
            case NotLeader(leader):
                return f"ask {leader} instead" if leader else "I do not know who leads"
            case _:
                return repr(reply)

    def show(self, servers: list[ServerId]) -> None:
        """A table of what each server holds; * marks what it knows as chosen."""
        for server in servers:
            if server not in self.servers:
                self.say(f"{server} is down")
                continue
            view = self.view(server)
            held = " ".join(
                f"{slot}={text}{'*' if chosen else ''},"
                for slot, (text, chosen) in view.held.items()
            ).rstrip(",")
            gone = f"discarded to {view.discarded}; " if view.discarded else ""
            self.say(
                f"{server} {view.role}, promised {view.promised}; {gone}"
                f"{held or 'nothing accepted'}; executed {view.executed}"
            )

    # --- the commands of a scenario --------------------------------------------------------------

    def obey(self, line: str) -> None:
        """Carry out a line. Raises `ScenarioError` if it makes no sense."""
        name, *words = line.split()
        command = _COMMANDS.get(name)
        if command is None:
            raise ScenarioError(f"{name!r} is no command; there are {', '.join(_COMMANDS)}")
        try:
            command(self, words)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ScenarioError(f"{line!r}: {error!r}") from error

    def _do_accepted(self, words: list[str]) -> None:
        round_text, leader_text = words[1].split(".")
        values = {}
        for assignment in words[2:]:
            slot, text = assignment.split("=")
            values[f"slot_{slot}"] = text.encode()
        self.accepted(int(words[0]), Ballot(int(round_text), int(leader_text)), **values)

    def _do_start(self, words: list[str]) -> None:
        for server in [int(w) for w in words] or self.ids:
            self.start(server)
            view = self.view(server)
            if view.executed or view.held:
                self.show([server])

    def _do_deliver(self, words: list[str]) -> None:
        kind, source, target, some = self._which(words)
        for packet in self._chosen(kind, source, target, some):
            if self._is_cut(packet) or packet.target not in self.servers:
                self.say(f"{packet.source}->{packet.target} {describe(packet.message)} is lost")
            else:
                self.hand(packet.target, packet.source, packet.message)

    def _do_drop(self, words: list[str]) -> None:
        if not words and not self.packets:
            return
        kind, source, target, some = self._which(words)
        for packet in self._chosen(kind, source, target, some):
            self.say(f"{packet.source}->{packet.target} {describe(packet.message)} is lost")

    def _do_hold(self, words: list[str]) -> None:
        """Put messages behind all that are under way now, and behind those to come."""
        kind, source, target, some = self._which(words)
        self.held.extend(self._chosen(kind, source, target, some))

    def _do_release(self, _: list[str]) -> None:
        self.packets.extend(self.held)
        self.held.clear()

    def _do_stabilize(self, words: list[str]) -> None:
        self.quiet = words == ["quietly"]
        while self.packets:
            self._do_deliver([])
        self.quiet = False

    def _do_time(self, words: list[str]) -> None:
        """Only what changes is told: a second has many heartbeats."""
        self.quiet = True
        self.pass_time(float(words[0]))
        self.quiet = False

    def _do_wait(self, words: list[str]) -> None:
        """Let time pass and timers fire; what they send stays under way."""
        self.clock.now += float(words[0])
        for server in list(self.servers):
            if self.clock.now >= self.servers[server].next_deadline():
                self.step(server)

    def _do_client(self, words: list[str]) -> None:
        server, what, *rest = words
        if what == "open":
            self._sequence += 1
            self.request(int(server), OpenSession(self._sequence))
        elif what == "read":
            self.query(int(server), 1, rest[0] if rest else "linearizable")
        elif what == "send":
            seq = self.numbers.setdefault(rest[0], len(self.numbers) + 1)
            self.command(int(server), self.session, seq, rest[0].encode())
        else:
            raise ScenarioError("a client can open, send and read")

    def _do_transfer(self, words: list[str]) -> None:
        server, to = int(words[0]), int(words[1])
        self.request(server, TransferLeader(TRANSFER, self.servers[server].promised, to))

    def _do_change(self, words: list[str]) -> None:
        leader, *voters = map(int, words)
        self.change(leader, *voters)

    def _do_crash(self, words: list[str]) -> None:
        self.crash(int(words[0]))

    def _do_restart(self, words: list[str]) -> None:
        if int(words[0]) in self.servers:
            self.crash(int(words[0]))
        self._do_start(words)

    def _do_cut(self, words: list[str]) -> None:
        self.cut.add(frozenset(int(w) for w in words))

    def _do_packets(self, _: list[str]) -> None:
        for packet in self.packets:
            self.say(f"{packet.source}->{packet.target} {describe(packet.message)}")

    def _which(self, words: list[str]) -> tuple[type | None, ServerId, ServerId, str]:
        """Read `[kind] [1->3] [first | last]`; 0 stands for any server."""
        kind: type | None = None
        source = target = 0
        some = ""
        for word in words:
            if "->" in word:
                before, _, after = word.partition("->")
                source, target = int(before or 0), int(after or 0)
            elif word in ("first", "last"):
                some = word
            else:
                kind = KINDS[word]
        return kind, source, target, some

    def _chosen(
        self, kind: type | None, source: ServerId, target: ServerId, some: str
    ) -> list[Packet]:
        taken = self._take(kind, source, target)
        if not taken:
            raise ScenarioError("no such message is under way")
        if some == "first":
            self.packets[:0] = taken[1:]
            return taken[:1]
        if some == "last":
            self.packets[:0] = taken[:-1]
            return taken[-1:]
        return taken


_COMMANDS: dict[str, Callable[[Narrator, list[str]], None]] = {
    "accepted": Narrator._do_accepted,
    "start": Narrator._do_start,
    "campaign": lambda cluster, words: cluster.campaign(int(words[0])),
    "deliver": Narrator._do_deliver,
    "drop": Narrator._do_drop,
    "hold": Narrator._do_hold,
    "release": Narrator._do_release,
    "stabilize": Narrator._do_stabilize,
    "isolate": lambda cluster, words: cluster.isolate(*map(int, words)),
    "cut": Narrator._do_cut,
    "heal": lambda cluster, _: cluster.heal(),
    "time": Narrator._do_time,
    "wait": Narrator._do_wait,
    "client": Narrator._do_client,
    "transfer": Narrator._do_transfer,
    "change": Narrator._do_change,
    "crash": Narrator._do_crash,
    "restart": Narrator._do_restart,
    "packets": Narrator._do_packets,
    "show": lambda cluster, words: cluster.show([int(w) for w in words] or list(cluster.ids)),
}
