"""What one event does at one server: computed once by the real `PaxosServer`, then remembered.

A server's step depends on its state and on what happens to it, on nothing else. So the search keeps
each distinct state of a server (an image) and each distinct message once, by number, and remembers
what became of each pair. Millions of orders of the same few steps cost a look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from paxon.actors import Environment, PaxosServer, ServerId, Settings, StorageError
from paxon.actors.environment import NEVER
from paxon.actors.execution.agreed import NAMES, encode_agreed, first_agreed
from paxon.actors.execution.application import Executed
from paxon.actors.members import Members
from paxon.actors.messages import (
    Batch,
    ClientMessage,
    CommandReply,
    Made,
    PeerMessage,
    QueryReply,
    ReplyStatus,
    ServerReply,
    SessionOpened,
)
from paxon.actors.records.configuration import Configuration, Member
from paxon.actors.records.reign import Reign
from paxon.actors.records.thrift import Thrift
from paxon.transport import Burst, BurstInbox
from tests.disks import MemoryDisk
from tests.harness import Register, change_members, reign_of
from tests.quiet import QuietNetwork
from tests.search.images import (
    DISK,
    OBJECTS,
    Image,
    always,
    freeze_disk,
    freeze_server,
    thaw_disk,
    thaw_server,
)

__all__ = ["ASKS", "CHANGE", "CLIENT", "IDENTITY", "Event", "Messages", "Outcome", "Steps"]

CLIENT: ServerId = 0
"""As the sender of a message: the clients."""


IDENTITY = 1
"""Of the cluster that is searched."""
CHANGE = 7
"""The number of every change of members."""
ASKS = 900
"""As the number of a question: how has that change ended?"""

Event = tuple[str, int]
"""What happens to a server: its name, and for "deliver" the message's number, else 0."""

Effect = tuple[Any, ...]
"""What the rest of the world gets to know of a step, besides messages."""


class Outcome(NamedTuple):
    """What became of an event at a server."""

    image: int
    """The server's state after it, by number."""
    sent: int
    """The messages that it sent: bits by number."""
    effects: tuple[Effect, ...]
    failure: str
    """Why the server stopped by itself; empty if it did not."""


class Messages:
    """All messages ever sent in a search, each by a number of its own."""

    def __init__(self) -> None:
        self.known: list[tuple[ServerId, ServerId, PeerMessage | ClientMessage]] = []
        self._numbers: dict[tuple[ServerId, ServerId, bytes], int] = {}

    def number(
        self, source: ServerId, target: ServerId, message: PeerMessage | ClientMessage
    ) -> int:
        key = (source, target, msgspec.msgpack.encode(message))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.known)
            self.known.append((source, target, message))
        return found


class StandingClock:
    """Time stands while a search runs: timers fire when it says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def awake(self) -> int:
        return int(self.now * 1e9)


class NoChance:
    """Every random draw comes out the same: nobody's timer fires unless the search says so."""

    def uniform(self, a: float, b: float) -> float:
        return b

    def getrandbits(self, k: int) -> int:
        return self.bits

    bits = 1
    """Where commits are counted: another number in each life of a server, as in earnest."""


class Died(BaseException):
    """The process is gone in the middle of a sync."""


class RecordingDisk(MemoryDisk):
    """Tells what becomes durable, and dies in a sync when told to."""

    effects: list[Effect]
    fate: str = ""

    created = always(True)  # a restarted server need not ask whether it may vote
    count = always(0)  # states that differ in it alone are one

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        """As above."""

    def _note_epoch(self, configuration: Configuration) -> None:
        """An epoch has begun here: nothing of an earlier one is above, and all below is there."""
        seal, first = configuration.sealed_at, self.durable.discarded + 1
        left = [
            row.slot for row in self._accepted.values()
            if row.slot > seal and row.ballot.epoch < configuration.epoch
        ]  # fmt: skip
        missing = [slot for slot in range(first, seal + 1) if slot not in self._accepted]
        self.effects.append(("entered", configuration.epoch, tuple(left), tuple(missing)))

    def commit(self) -> None:
        if not self.dirty and not self._lazy:
            return
        if self.fate == "dies before the sync":
            raise Died
        rows, before = dict(self._rows), self.durable.configuration
        super().commit()
        for slot, (ballot, value, _) in rows.items():
            self.effects.append(("vote", slot, ballot, value))
        configuration = self.durable.configuration
        if configuration is not None and configuration != before:
            self._note_epoch(configuration)
        if self.fate == "dies after the sync":
            raise Died


class CountingDisk(RecordingDisk):
    """Counts its commits: its server has to be confirmed whenever it is started again."""

    lives = 0
    """How often it was opened."""
    refused = False
    """It is an old copy, and its server has said so and stopped."""

    created = False
    count = 0

    def save_counts(self, counts: Mapping[ServerId, int]) -> None:
        MemoryDisk.save_counts(self, counts)


class _Wire(QuietNetwork):
    def __init__(self, steps: Steps, server: ServerId) -> None:
        self.steps = steps
        self.server = server

    def send(self, server: ServerId, messages: Sequence[PeerMessage]) -> None:
        for message in messages:
            self.steps.sent |= 1 << self.steps.messages.number(self.server, server, message)

    def reply(self, client: bytes, messages: Sequence[ServerReply]) -> None:
        for message in messages:
            if isinstance(message, CommandReply) and message.status == ReplyStatus.OK:
                self.steps.effects.append(("acknowledged", message.session, message.seq))
            elif isinstance(message, QueryReply) and message.id == ASKS:
                told = msgspec.msgpack.decode(message.payload, type=Members)
                self.steps.effects.append(("told", CHANGE, told.outcome))
            elif isinstance(message, QueryReply):
                self.steps.effects.append(("read", message.id, message.payload))
            elif isinstance(message, SessionOpened):
                self.steps.effects.append(("acknowledged", message.session, 0))


State = tuple[bool, Image | None, Image]
"""Whether the server runs, its state if it does, and its disk."""


class Steps:
    """The servers of one search, one live object for each, and all that was ever computed."""

    def __init__(
        self,
        size: int,
        options: dict[str, Any],
        own: Mapping[ServerId, dict[str, Any]],
        *,
        counted: bool = False,
        members: tuple[ServerId, ...] = (),
    ) -> None:
        """Servers whose commits are `counted`, or as many of each as there may be are one.

        `members` are those of the first epoch, by default all.
        """
        self.counted = counted
        self.ids = tuple(range(1, size + 1))
        self.messages = Messages()
        self.clock = StandingClock()
        self.effects: list[Effect] = []
        self.sent = 0
        self.computed = 0
        self.changes = False
        """Whether any leader was asked for other members."""
        self._numbers: dict[State, int] = {}
        self._states: list[State] = []
        self._known: dict[tuple[ServerId, int, Event], Outcome] = {}
        agreed = encode_agreed(
            first_agreed({name: options[name] for name in NAMES if name in options}, {})
        )
        first = tuple((s, s) for s in members or self.ids)
        self.made = Made(IDENTITY, "search", first, agreed)
        self._disks = {s: self._new_disk(s) for s in self.ids}
        self._chances = {s: NoChance() for s in self.ids}
        self._servers = {s: self._new_server(s, {**options, **own.get(s, {})}) for s in self.ids}
        self._unopened = {s: self._frozen(server) for s, server in self._servers.items()}

    def _frozen(self, server: PaxosServer) -> Image:
        return freeze_server(server, counted=self.counted)

    def _frozen_disk(self, disk: MemoryDisk) -> Image:
        return freeze_disk(disk, counted=self.counted)

    def _new_disk(self, server: ServerId) -> RecordingDisk:
        kind = CountingDisk if self.counted else RecordingDisk
        disk = kind("search", server, incarnation=server)
        disk.effects = self.effects
        disk.save_made(self.made, in_force=True)
        disk.commit()
        return disk

    def _new_server(self, server: ServerId, options: dict[str, Any]) -> PaxosServer:
        settings = Settings(
            cluster="search", server=server, servers=self.ids, **{"policy": "random", **options}
        )
        environment = Environment(
            clock=self.clock,
            random=self._chances[server],
            storage=lambda: self._disks[server],
            network=lambda: _Wire(self, server),
        )
        made = PaxosServer(settings, Register(), environment)
        assert isinstance(made.actor_inbox, BurstInbox)
        made.actor_inbox.close()
        made.making.recover(server, self.made, in_force=True)
        made._join(Configuration.of(self.made))
        if not self.counted:
            made._count = lambda: 0  # type: ignore[method-assign]
            made.disks.note_count = lambda server, count: None  # type: ignore[method-assign]
        self._watch_execution(made)
        return made

    def _watch_execution(self, server: PaxosServer) -> None:
        application = server.application
        execute = application.execute
        machine = application.machine
        assert isinstance(machine, Register)

        def watched(
            slot: int, value: bytes, batch: Batch | None = None, checksum: int | None = None
        ) -> list[Executed]:
            results = execute(slot, value, batch, checksum)
            self.effects.append(("executed", slot, value, tuple(machine.applied)))
            return results

        application.execute = watched  # type: ignore[method-assign]

    def wait(self, seconds: float) -> None:
        """Let time pass, before a search begins: what was computed holds no longer."""
        self.clock.now += seconds
        self._known.clear()

    # --- images ----------------------------------------------------------------------------------

    def fresh(self, server: ServerId) -> int:
        """A server that has never run, on an empty disk."""
        return self._number((False, None, self._frozen_disk(self._new_disk(server))))

    def put_back(self, server: ServerId, image: int) -> int:
        """Its server stopped, on a copy of the directory that it had in that state."""
        self._load(server, image)
        return self._number((False, None, self._frozen_disk(self._disks[server].crash())))

    def _number(self, state: State) -> int:
        found = self._numbers.get(state)
        if found is None:
            found = self._numbers[state] = len(self._states)
            self._states.append(state)
        return found

    def state(self, image: int) -> State:
        return self._states[image]

    def commits(self, image: int) -> int:
        """How many commits its disk has had; only where they are counted."""
        count: int = self._states[image][2][len(DISK)]
        return count

    def runs(self, image: int) -> bool:
        return self._states[image][0]

    def attributes(self, image: int) -> dict[str, Any]:
        """A running server's own attributes, frozen."""
        server = self._states[image][1]
        return {} if server is None else dict(server[0])

    def thrift_is_armed(self, image: int) -> bool:
        """Whether something that the prompt servers were asked will be looked at."""
        reign = self.attributes(image).get("_reign")
        if reign is None:
            return False
        thrift = dict(zip(OBJECTS[Reign], reign[1:], strict=True))["thrift"]
        held = dict(zip(OBJECTS[Thrift], thrift[1:], strict=True))
        return bool(min(held["p2as_due_at"], held["round_due_at"]) < NEVER)

    def peek(self, server: ServerId, image: int) -> PaxosServer:
        """The live server in that state, to look at until the next event."""
        self._load(server, image)
        return self._servers[server]

    def change_members(
        self, server: ServerId, image: int, voters: Sequence[ServerId], learners: Sequence[ServerId]
    ) -> int:
        """A leader in that state is asked for these members."""
        self.changes = True
        members = tuple(Member(s, s, s in voters) for s in sorted({*voters, *learners}))
        return self.changed(server, image, lambda live: change_members(live, members, CHANGE))

    def changed(self, server: ServerId, image: int, change: Callable[[PaxosServer], object]) -> int:
        """The same state but for a change, for the story before a search."""
        change(self.peek(server, image))
        running, _, disk = self._states[image]
        return self._number((running, self._frozen(self._servers[server]), disk))

    # --- events ----------------------------------------------------------------------------------

    def outcome(self, server: ServerId, image: int, event: Event) -> Outcome:
        """What becomes of `event` at `server` in that state."""
        key = (server, image, event)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._compute(server, image, event)
        return known

    def _load(self, server: ServerId, image: int) -> None:
        _, running, disk = self._states[image]
        live = self._servers[server]
        disk_now = self._disks[server]
        thaw_disk(disk, disk_now, self.made)
        thaw_server(self._unopened[server] if running is None else running, live)
        live._storage = disk_now
        members = live.configuration.servers
        live.disks.incarnations = {other: other for other in members if other != server}
        live._now = self.clock.now
        live._log_at = float("inf")
        if isinstance(disk_now, CountingDisk):
            self._chances[server].bits = disk_now.lives

    def _compute(self, server: ServerId, image: int, event: Event) -> Outcome:
        self.computed += 1
        self.effects.clear()
        self.sent = 0
        self._load(server, image)
        live, disk = self._servers[server], self._disks[server]
        name, number = event
        disk.fate = name if name.startswith("dies") else ""
        failure = ""
        runs = name != "crash"
        before = live.disks.counts.copy() if self.counted and name != "restart" else {}
        try:
            if name == "restart":
                self._open(live, disk)
            elif name != "crash":
                self._step(live, name, number)
                runs = not disk.fate
        except Died:
            runs = False
        except StorageError as error:
            runs, failure = False, "" if disk.condemned else str(error)  # (it has retired)
            if isinstance(disk, CountingDisk) and "is an old copy" in failure:
                disk.refused, failure = True, ""
                self.effects.append(("refused",))
        except Exception as error:
            runs, failure = False, f"{type(error).__name__}: {error}"
        disk.fate = ""
        if runs and any(
            live.disks.counts.get(other, count) < count for other, count in before.items()
        ):
            self.effects.append(("forgets a count",))
        if runs:
            state: State = (True, self._frozen(live), self._frozen_disk(disk))
        else:
            state = (False, None, self._frozen_disk(disk.crash()))
        return Outcome(self._number(state), self.sent, tuple(self.effects), failure)

    def _open(self, live: PaxosServer, disk: RecordingDisk) -> None:
        if not isinstance(disk, CountingDisk):
            live.open()
            return
        if disk.refused:
            raise Died  # nobody starts it again, and nobody gives back the newest directory
        disk.lives += 1
        self._chances[live.settings.server].bits = disk.lives
        live.open()
        live.step(Burst())  # it asks

    def _step(self, live: PaxosServer, name: str, number: int) -> None:
        if name == "deliver" or name.startswith("dies"):
            source, _, message = self.messages.known[number]
            burst: Burst[Any, Any] = Burst()
            if source == CLIENT:
                burst.clients.append((b"client", [message]))
            else:
                burst.peers.append((source, source, [message]))
            live.step(burst)
            return
        now = self.clock.now
        if name == "campaign":  # a courteous one asks the others first
            if live.role == "leader" and not live._policy.courteous:
                live._lose_quorum()
            live._following.election_at = now
        elif name == "beat":
            reign_of(live).heartbeat_at = now
        elif name == "thrift":  # what the prompt servers were asked is due
            thrift = reign_of(live).thrift
            thrift.p2as_due_at = now if thrift.p2as_due_at < NEVER else NEVER
            thrift.round_due_at = now if thrift.round_due_at < NEVER else NEVER
        elif name == "sync":
            live._watermark_at = now
        elif name == "ask seal" and live._opening is not None:
            live._opening.due = now
        elif name == "ask again":  # a candidate, for promises that have not come
            assert live._candidacy is not None
            live._candidacy.ask_again_at = now
        live.step(Burst())
