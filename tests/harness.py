"""A cluster in one thread, for tests: real servers, messages delivered by hand, time that stands.

The servers are `PaxosServer` itself, constructed and never started. Nothing moves by itself: a test
says which messages arrive, which are lost and when time passes, so a scenario reads like a story.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from paxon.actors import Ballot, Environment, PaxosServer, ServerId, Settings, StateMachine
from paxon.actors.ballot import in_list
from paxon.actors.disk.storage import Storage
from paxon.actors.execution.agreed import NAMES, Agreed, encode_agreed, first_agreed
from paxon.actors.execution.application import decode_batch, encode_batch
from paxon.actors.messages import (
    NO_OP,
    Batch,
    Command,
    CommandReply,
    Entry,
    Introduction,
    Made,
    OpenSession,
    PeerMessage,
    Query,
    QueryReply,
    ServerReply,
    SessionOpened,
)
from paxon.actors.records.changing import Changing
from paxon.actors.records.configuration import Member, decode_config, is_config
from paxon.actors.records.making import Retired
from paxon.actors.records.reign import Reign
from paxon.transport import Burst
from tests.disks import MemoryDisk
from tests.quiet import QuietNetwork

CLIENT = b"client"
ADDRESSES = {server: f"tcp://server-{server}" for server in (1, 2, 3)}
"""Where clients reach the servers of a cluster of three."""
IDENTITY = 0x5EED
"""Of clusters that are in force before a test begins."""

M = TypeVar("M")


class Register(StateMachine):
    """The smallest useful state machine: appends its commands, replies with all so far."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []

    def apply(self, command: bytes) -> bytes:
        if command == b"bad":
            raise ValueError("a bad command")
        self.applied.append(command)
        return b" ".join(self.applied)

    def query(self, query: bytes) -> bytes:
        return b" ".join(self.applied)

    def snapshot(self) -> bytes:
        return b"\n".join(self.applied)

    def restore(self, snapshot: bytes) -> None:
        self.applied = snapshot.split(b"\n") if snapshot else []

    def digest(self) -> str:
        return str(len(self.applied))


def reign_of(server: PaxosServer) -> Reign:
    """What a server that leads knows."""
    assert server._reign is not None
    return server._reign


def change_members(leader: PaxosServer, members: tuple[Member, ...], request: int) -> None:
    """Have these as the next configuration, without a word to them."""
    reign = leader._reign
    if reign is not None and not reign.holds_back:
        reign.changing = Changing(members, request)
        reign.holds_back = True


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def awake(self) -> int:
        return int(self.now * 1e9)


@dataclass(slots=True)
class Packet:
    """A message under way."""

    source: ServerId
    target: ServerId
    message: PeerMessage

    def __str__(self) -> str:
        return f"{self.source}->{self.target} {self.message}"


@dataclass(slots=True)
class Wire(QuietNetwork):
    """A server's network: puts every message into the cluster's hands."""

    cluster: Cluster
    server: ServerId
    closed: bool = False

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        self.cluster.packets.extend(Packet(self.server, server, m) for m in messages)

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        self.cluster.replies.extend((self.server, client, m) for m in messages)

    def close(self) -> None:
        self.closed = True


@dataclass
class Cluster:
    """Servers 1 … `size`, their messages under way, and what clients were told."""

    size: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    machine: Callable[[], StateMachine] = Register
    packets: list[Packet] = field(default_factory=list)
    replies: list[tuple[ServerId, bytes, ServerReply]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    confirms: bool = True
    """Whether restarted servers are told at once that their directories are no old copies."""
    wire: type[Wire] = Wire
    """What servers get for their network."""
    made: bool = True
    """Whether the cluster is in force from the beginning; else the servers have to make it."""
    members: tuple[ServerId, ...] = ()
    """Those of the first epoch, by default all; the others know which cluster they are to join."""

    def __post_init__(self) -> None:
        self.ids = tuple(range(1, self.size + 1))
        self.storages = {server: self.new_disk(server) for server in self.ids}
        if self.made:
            given = {name: self.options[name] for name in NAMES if name in self.options}
            agreed = first_agreed(given, self.machine().limits)
            make_cluster(self.storages, agreed, members=self.members)
        self.servers: dict[ServerId, PaxosServer] = {}
        self.retired: dict[ServerId, PaxosServer] = {}
        """Who was taken out of the cluster and has stopped because of it."""
        self.cut: set[frozenset[ServerId]] = set()
        self._sequence = 0

    # --- starting and stopping -------------------------------------------------------------------

    def start(self, *servers: ServerId, **options: Any) -> Cluster:
        """Open servers (all by default) on their disks; `options` are settings besides our own."""
        for server in servers or self.ids:
            self.servers[server] = self.make(server, **options)
            self.open(server)
        return self

    def make(self, server: ServerId, **options: Any) -> PaxosServer:
        """A server that is constructed and not yet opened."""
        chosen: dict[str, Any] = {
            "cluster": "test",
            "server": server,
            "servers": self.ids,
            "client_addresses": {s: f"tcp://server-{s}" for s in self.ids},
            **self.options,
            **options,
        }
        environment = Environment(
            clock=self.clock,
            random=random.Random(server),
            storage=lambda: self.storages[server],
            network=lambda: self.wire(self, server),
        )
        return PaxosServer(Settings(**chosen), self.machine(), environment)

    def open(self, server: ServerId) -> None:
        self.servers[server].open()
        if self.confirms:
            self.confirm(server)

    def confirm(self, server: ServerId) -> None:
        """All others have said that this server's directory is no old copy (if it asks)."""
        confirmation = self.servers[server].membership.confirmation
        confirmation.confirmed_by.update(self.ids)
        confirmation.vouched.update(self.ids)
        self.servers[server].membership._settle_confirmation()

    def crash(self, server: ServerId) -> None:
        """Stop without a farewell: what was not synced is lost, messages under way are not."""
        if server in self.retired:  # it has stopped by itself
            return
        del self.servers[server]
        self.storages[server] = self.storages[server].crash(keep_pending=False)

    def restart(self, server: ServerId, **options: Any) -> PaxosServer:
        """Crash a server if it runs, and start it on what its disk kept."""
        if server in self.servers:
            self.crash(server)
        self.start(server, **options)
        return self.servers[server]

    def replace_disk(self, server: ServerId) -> None:
        """Crash a server if it runs, and give it an empty data directory."""
        self.servers.pop(server, None)
        self.storages[server] = self.new_disk(server)
        for other in self.servers.values():  # the old one has been silent for a while
            other.disks.heard_at[server] = float("-inf")

    def new_disk(self, server: ServerId) -> MemoryDisk:
        return MemoryDisk(cluster="test", server=server)

    def rejoining(self, *servers: ServerId) -> None:
        """Lose these servers' disks, and start them on empty ones that know the cluster again."""
        for server in servers:
            self.replace_disk(server)
            self.start(server, rejoin=True)
            others = [other for other in self.ids if other != server and other in self.servers]
            for other in others[:1]:
                answer = self.servers[other].making.introduction(
                    to=self.storages[server].incarnation
                )
                self.hand(server, other, answer)
            self.drop(Introduction)

    def accepted(self, server: ServerId, ballot: Ballot, **values: bytes) -> None:
        """Before the start: this server has promised `ballot` and accepted `slot_N=value` in it."""
        storage = self.storages[server]
        storage.save_promise(ballot)
        for name, command in values.items():
            slot = int(name.removeprefix("slot_"))
            storage.save_accepted(slot, ballot, value_of(command))
        storage.commit()

    # --- time and messages -----------------------------------------------------------------------

    def step(self, server: ServerId, burst: Burst[Any, Any] | None = None) -> None:
        try:
            self.servers[server].step(burst if burst is not None else Burst())
        except Retired:  # its directory says so from now on
            stopped = self.servers[server]
            self.crash(server)
            self.retired[server] = stopped

    def campaign(self, server: ServerId) -> None:
        """Start phase 1 at a server, as if its election timeout had passed."""
        self.servers[server].campaign()
        self.step(server)

    def lead(self, server: ServerId) -> PaxosServer:
        """Make a server the leader, everything delivered."""
        self.campaign(server)
        self.stabilize()
        assert self.servers[server].role == "leader"
        return self.servers[server]

    def deliver(
        self, kind: type | None = None, source: ServerId = 0, target: ServerId = 0
    ) -> list[Packet]:
        """Deliver what is under way now and matches, in order; returns what arrived."""
        taken = self._take(kind, source, target)
        arrived = []
        for packet in taken:
            if packet.target in self.servers and not self._is_cut(packet):
                incarnation = self.storages[packet.source].incarnation
                self.step(
                    packet.target, Burst(peers=[(packet.source, incarnation, [packet.message])])
                )
                arrived.append(packet)
        return arrived

    def hand(self, target: ServerId, source: ServerId, *messages: PeerMessage) -> None:
        """A frame arrives that nobody has to have sent here."""
        incarnation = self.storages[source].incarnation
        self.step(target, Burst(peers=[(source, incarnation, list(messages))]))

    def sent(self, kind: type[M], source: ServerId = 0, target: ServerId = 0) -> list[M]:
        """Messages of one kind that are under way now and match; they stay under way.

        Without their counts of commits, which are no matter of most tests.
        """
        return [
            _uncounted(p.message)
            for p in self.packets
            if isinstance(p.message, kind) and source in (0, p.source) and target in (0, p.target)
        ]

    def drop(
        self, kind: type | None = None, source: ServerId = 0, target: ServerId = 0
    ) -> list[Packet]:
        """Lose what is under way now and matches."""
        return self._take(kind, source, target)

    def member(self, server: ServerId, *, voter: bool = True) -> Member:
        """This server's directory, as a configuration has it."""
        return Member(server, self.storages[server].incarnation, voter)

    def change(self, leader: ServerId, *voters: ServerId, learners: Sequence[ServerId] = ()) -> int:
        """Ask a leader for a configuration, whatever `Changing` says of it; its request number."""
        self._sequence += 1
        members = [self.member(server) for server in voters]
        members += [self.member(server, voter=False) for server in learners]
        members.sort(key=lambda member: member.server)
        change_members(self.servers[leader], tuple(members), self._sequence)
        self.step(leader)
        return self._sequence

    def epochs(self, *servers: ServerId) -> list[int]:
        """In which epoch these servers are (by default all that run)."""
        known = self.retired | self.servers
        return [known[s].configuration.epoch for s in servers or sorted(self.servers)]

    def stabilize(self) -> None:
        """Deliver until nothing is under way any more; time stands."""
        for _ in range(10_000):
            if not self.packets:
                return
            self.deliver()
        raise AssertionError("messages never end")

    def pass_time(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass, timers fire and messages arrive."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += step
            for server in list(self.servers):
                if self.clock.now >= self.servers[server].next_deadline():
                    self.step(server)
            self.stabilize()

    def isolate(self, *servers: ServerId) -> None:
        """Cut these servers off from all others (not from each other)."""
        for server in servers:
            for other in self.ids:
                if other not in servers:
                    self.cut.add(frozenset((server, other)))

    def heal(self) -> None:
        self.cut.clear()

    def _is_cut(self, packet: Packet) -> bool:
        return frozenset((packet.source, packet.target)) in self.cut

    def _take(self, kind: type | None, source: ServerId, target: ServerId) -> list[Packet]:
        taken: list[Packet] = []
        kept: list[Packet] = []
        for packet in self.packets:
            matches = (
                (kind is None or type(packet.message) is kind)
                and source in (0, packet.source)
                and target in (0, packet.target)
            )
            (taken if matches else kept).append(packet)
        self.packets = kept
        return taken

    # --- clients ---------------------------------------------------------------------------------

    def request(self, server: ServerId, *messages: Any, client: bytes = CLIENT) -> None:
        """A client's frame arrives at a server."""
        self.step(server, Burst(clients=[(client, list(messages))]))

    def open_session(self, server: ServerId, client: bytes = CLIENT) -> int:
        self._sequence += 1
        nonce = self._sequence
        self.request(server, OpenSession(nonce), client=client)
        self.stabilize()
        opened = [r for _, _, r in self.replies if isinstance(r, SessionOpened)]
        return next(o.session for o in opened if o.nonce == nonce)

    def command(
        self, server: ServerId, session: int, seq: int, text: bytes, *, acked: int = 1,
        after: int = 0, client: bytes = CLIENT,
    ) -> None:  # fmt: skip
        self.request(server, Command(session, seq, acked, after, text), client=client)

    def query(self, server: ServerId, number: int = 1, mode: Any = "linearizable") -> None:
        self.request(server, Query(number, mode, b""))

    def reply_to(self, seq: int) -> CommandReply | None:
        """The last reply to a command of that sequence number."""
        found = [r for _, _, r in self.replies if isinstance(r, CommandReply) and r.seq == seq]
        return found[-1] if found else None

    def answers(self) -> list[QueryReply]:
        return [r for _, _, r in self.replies if isinstance(r, QueryReply)]

    def execute(self, server: ServerId, session: int, *texts: bytes, first: int = 1) -> None:
        """Commands one after another at a leader, everything delivered."""
        for seq, text in enumerate(texts, first):
            self.command(server, session, seq, text)
            self.stabilize()

    def told_session(self) -> int:
        """The session opened last."""
        return self.told(SessionOpened)[-1].session

    def told(self, kind: type[M], client: bytes = CLIENT) -> list[M]:
        """All replies of one kind to a client, the last one last."""
        return [r for _, c, r in self.replies if c == client and isinstance(r, kind)]

    # --- looking in ------------------------------------------------------------------------------

    def contents(self, server: ServerId) -> dict[int, str]:
        """What a server holds, readable: slot → command (or "no-op"), chosen ones marked with *."""
        log = self.servers[server].log
        shown = {}
        for accepted in log.accepted_from(1):
            chosen = "*" if log.status(accepted.slot) == "CHOSEN" else ""
            shown[accepted.slot] = text_of(accepted.value) + chosen
        return shown

    def applied(self, server: ServerId) -> list[bytes]:
        machine = self.servers[server].application.machine
        assert isinstance(machine, Register)
        return machine.applied


def make_cluster(
    storages: Mapping[ServerId, Storage],
    agreed: Agreed,
    *,
    in_force: bool = True,
    identity: int = IDENTITY,
    members: Sequence[ServerId] = (),
) -> Made:
    """Have these directories make a cluster, as if their servers had done so before.

    Those that are none of its `members` know which one they are to join.
    """
    chosen = sorted(members or storages)
    made = Made(
        identity, "test", tuple((s, storages[s].incarnation) for s in chosen), encode_agreed(agreed)
    )
    for force in (False, True) if in_force else (False,):  # in force once all have stored it
        for server in sorted(storages, key=lambda server: server not in chosen):
            if force or server in chosen:
                storages[server].save_made(made, in_force=force)
                storages[server].commit()
    return made


def _uncounted(message: M) -> M:
    if not getattr(message, "count", 0):
        return message
    return msgspec.structs.replace(message, count=0)  # type: ignore[type-var]


def value_of(command: bytes) -> bytes:
    """A slot's value with one command that belongs to no session; b"" is a no-op."""
    if not command:
        return NO_OP
    return encode_batch(Batch(0, [Entry(0, 1, 0, 0, command)]))


def text_of(value: bytes) -> str:
    """The commands in a slot's value, or "no-op"."""
    if value == NO_OP:
        return "no-op"
    if is_config(value):
        return f"CONFIG of {in_list(decode_config(value).voters)}"
    return " ".join(e.command.decode() or "open-session" for e in decode_batch(value).entries)
