"""Clients that are silent while all servers are replaced: real servers, and the clients' very core.

The servers of tests/harness.py have addresses here, and a new one whenever one moves or loses its
directory. A client reaches only addresses that it was given or told. All is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from paxon.actors.ballot import ServerId
from paxon.actors.members import ChangeMembers, MemberChange
from paxon.actors.messages import ClientMessage, ServerReply
from paxon.kvstore.client.core import ClientCore
from paxon.kvstore.store.operations import Events, Get, Operation, Put
from paxon.kvstore.store.store import KVStore
from paxon.transport import Burst
from tests.harness import Cluster
from tests.predicates import require

__all__ = ["SilentWorld"]

TICK = 0.01
LOOKS = 0.5
"""Seconds after which a blocking client that nobody calls is looked after again."""
ANSWERED_IN = 5.0
"""Simulated seconds in which a client that was silent has to be answered …"""
TOLD_IN = 2.5
"""… in which its watch has to be told: less than silence takes to be noticed …"""
SETTLED_IN = 30.0
"""… and in which servers have to be members, and one of them leads."""
CLIENTS = 4


class SilentClient:
    """One client, with its connections; they break when a server ends, and lose nothing else."""

    def __init__(self, world: SilentWorld, number: int) -> None:
        self.world, self.number = world, number
        random = Random(f"client {world.seed} {number}")
        known = list(world.at.values())
        random.shuffle(known)
        self.core = ClientCore(known, random)
        self._every = random.choice((0.0, LOOKS))
        """An asyncio client looks at once."""
        self._look_at = 0.0
        self._lives: dict[str, int] = {}
        """How often the connection to each address has ended; none until there is one."""
        self._ended: list[str] = []
        self._came: list[tuple[str, ServerReply]] = []
        self._waiting: dict[str, tuple[int, list[ClientMessage]]] = {}
        """What waits for a connection, and of which of the search's changes it is."""

    def token(self, address: str) -> bytes:
        return f"{self.number} {self._lives.get(address, 0)} {address}".encode()

    def hear(self, token: bytes, reply: ServerReply) -> None:
        address = token.decode().rpartition(" ")[2]
        if token == self.token(address):
            self._came.append((address, reply))

    def look_for_ends(self) -> None:
        """Connections end with the processes that they led to."""
        for address in [a for a in self._lives if not self.world.listens(a)]:
            if self.token(address) in self.world.tokens:
                self.world.tokens.remove(self.token(address))
                self._lives[address] += 1
                self._ended.append(address)

    def look(self, *, called: bool = False) -> None:
        """Take in what has come, and send what is due; not at any time, unless somebody calls."""
        now = self.world.cluster.clock.now
        if now < self._look_at and not called:
            return
        self._look_at = now + self._every
        came, self._came = self._came, []
        for address, reply in came:
            self.core.receive(address, [reply], now)
        ended, self._ended = self._ended, []
        for address in ended:
            self.core.lost(address, now)
        changes = self.core.search.changes
        for address, messages in self.core.poll(now):
            before, held = self._waiting.get(address, (changes, []))
            kept = held if before == changes else []
            self._waiting[address] = changes, [*kept, *messages]
        for address in [a for a in self._waiting if self.world.listens(a)]:
            _, messages = self._waiting.pop(address)
            self._lives.setdefault(address, 0)
            self.world.send(address, self.token(address), messages)

    def ask(self, operation: Operation) -> Any:
        now = self.world.cluster.clock.now
        return self.core.submit_operations([operation], now=now, deadline=now + 1e9)


class SilentWorld:
    """Servers 1 to 3, and later others instead; each scenario is drawn from the seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.random = seed, Random(f"silent {seed}")
        self._addresses = 0
        self.at: dict[ServerId, str] = {}
        """Where clients reach each member now."""
        self.tokens: set[bytes] = set()
        """Connections."""
        self.cluster = Cluster(9, {}, machine=KVStore, members=(1, 2, 3))
        self._listens: dict[str, ServerId] = {}
        for server in (1, 2, 3):
            self._move(server)
        for server in (1, 2, 3):
            self._start(server)
        self.cluster.lead(1)
        self.clients = [SilentClient(self, number) for number in range(CLIENTS)]

    # --- servers ---------------------------------------------------------------------------------

    def _move(self, server: ServerId) -> None:
        """It is to listen somewhere else, and nobody where it did so far."""
        self._addresses += 1
        self._listens.pop(self.at.get(server, ""), None)
        self.at[server] = f"tcp://host-{self._addresses}:7111"
        self._listens[self.at[server]] = server

    def _start(self, server: ServerId, **options: Any) -> None:
        """With a file that says where all are by now; those of the others say what they said."""
        peers = {s: address.replace("7111", "7110") for s, address in self.at.items()}
        self.cluster.start(server, peer_addresses=peers, client_addresses=dict(self.at), **options)

    def listens(self, address: str) -> bool:
        return self._listens.get(address) in self.cluster.servers

    def send(self, address: str, token: bytes, messages: list[ClientMessage]) -> None:
        self.tokens.add(token)
        self.cluster.step(self._listens[address], Burst(clients=[(token, messages)]))

    def _tick(self, *, called: bool = False) -> None:
        self.cluster.pass_time(TICK, TICK)
        replies, self.cluster.replies[:] = list(self.cluster.replies), []
        for _, token, reply in replies:
            if token in self.tokens:
                self.clients[int(token.partition(b" ")[0])].hear(token, reply)
        for client in self.clients:
            client.look_for_ends()
            client.look(called=called)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            self._tick()

    def wait(self, seconds: float, what: str, done: Callable[[], bool], **how: bool) -> None:
        end = self.cluster.clock.now + seconds
        while not done():
            require(self.cluster.clock.now < end, "progress", "%s: not within %g s", what, seconds)
            self._tick(**how)

    def _in_step(self) -> bool:
        """All members are up, know that they are, and one leads."""
        disks = {server: self.cluster.storages[server].incarnation for server in self.at}
        servers = [s for s in self.cluster.servers.values() if s.settings.server in disks]
        known = [server.configuration.incarnations for server in servers if server.is_voter]
        return known == [disks] * len(disks) and "leader" in {server.role for server in servers}

    def settle(self) -> None:
        """Whoever replaces servers looks whether all is well, before the next."""
        self.pass_time(LOOKS + 0.1)
        self.wait(SETTLED_IN, f"seed {self.seed}: members {list(self.at)}", self._in_step)

    # --- what befalls them -----------------------------------------------------------------------

    def restart(self, server: ServerId) -> None:
        """Its connections end, and it comes back where it was."""
        self.cluster.crash(server)
        self.pass_time(self.random.choice((0.05, 0.5)))
        self._start(server)
        self.settle()

    def move(self, server: ServerId) -> None:
        """Its own new file says where it is by now."""
        self.cluster.crash(server)
        self._move(server)
        self._start(server)
        self.settle()

    def move_unseen(self, server: ServerId) -> None:
        """Another is down meanwhile, and remembers the old place when it is back."""
        other = self.random.choice([each for each in self.at if each != server])
        self.cluster.crash(other)
        self.cluster.crash(server)
        self._move(server)
        self._start(server)
        self.pass_time(2.0)
        self._start(other)
        self.settle()

    def replace(self, server: ServerId) -> None:
        """Its disk is lost; it comes back with an empty one, elsewhere."""
        self.cluster.replace_disk(server)
        self._move(server)
        self._tick()
        self._start(server, rejoin=True)
        self.settle()

    def replace_all_at_once(self) -> None:
        """No server of the old majority is in the new one."""
        old = list(self.at)
        new = [server + 3 for server in old]
        self.pass_time(0.6)
        for server in new:
            self._move(server)
            self._start(server)
        peers = {s: self.at[s].replace("7111", "7110") for s in new}
        disks = {s: self.cluster.storages[s].incarnation for s in new}
        self._change(*(MemberChange("add", s, disks[s], peers[s], self.at[s]) for s in new))
        for server in old:
            del self.at[server]
        gone = (MemberChange("remove", server) for server in old)
        self._change(*(MemberChange("promote", server) for server in new), *gone)
        self.settle()

    def _change(self, *changes: MemberChange) -> None:
        """Ask for it until it is done: who is to vote has to be level."""
        asked, ask_at = set[int](), 0.0

        def done() -> bool:
            nonlocal ask_at
            for server in list(self.cluster.servers.values()):
                if server.configuration.request in asked:
                    return True
                if server._serves() is not None and self.cluster.clock.now >= ask_at:
                    ask_at = self.cluster.clock.now + 0.5
                    asked.add(number := self.random.getrandbits(60))
                    change = ChangeMembers(number, server.promised, changes)
                    self.cluster.request(server.settings.server, change, client=b"operator")
            return False

        self.wait(SETTLED_IN, f"seed {self.seed}: {changes}", done)

    # --- a run -----------------------------------------------------------------------------------

    def run(self) -> None:
        """All are replaced while the clients are silent; then these have to be answered."""
        asked = [client.ask(Put(b"k%d" % client.number, b"")) for client in self.clients]
        self.wait(ANSWERED_IN, "begun", lambda: all(ticket.done for ticket in asked), called=True)
        watches = [
            client.core.start_watch(Events(0, [(b"k", None)])) for client in self.clients[1:]
        ]
        self.pass_time(1.0)
        for _ in range(self.random.choice((1, 2))):
            for server in list(self.at):
                if self.random.random() < 0.4:
                    self.restart(server)
            kind = self.random.choice(
                (self.move, self.move_unseen, self.replace, self.replace, None)
            )
            if kind is None:
                self.replace_all_at_once()
            else:
                for server in self.random.sample(list(self.at), len(self.at)):
                    if self.random.random() < 0.3:
                        self.restart(server)
                    kind(server)
        self.pass_time(self.random.choice((0.0, 2.0)))
        asked = [client.ask(Get(b"k0")) for client in self.clients]
        answered = "seed %d: a silent client is answered"
        self.wait(
            ANSWERED_IN, answered % self.seed, lambda: all(t.done for t in asked), called=True
        )
        require(all(t.error is None for t in asked), "progress", "%s", [t.error for t in asked])
        put = self.clients[0].ask(Put(b"k", b"new"))
        told = f"seed {self.seed}: a silent client's watch is told"
        self.wait(TOLD_IN, told, lambda: put.done and all(w.answer for w in watches))
