"""Where servers are reached: plain bookkeeping of hints (docs/design/addresses.md).

An address decides nothing. Who a server is, its directory says; the address is where it was last
seen. So whoever moves tells the others, they remember it beside their own file's address and hand
it on, and a wrong one costs a connection attempt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from msgspec import structs

from paxon.actors.ballot import MOST_SERVERS, ServerId
from paxon.actors.environment import NEVER, ClientToken
from paxon.actors.members import Member, MemberChange
from paxon.actors.messages import Introduction, NotLeader, Place
from paxon.actors.settings import Settings
from paxon.transport import is_dialable

__all__ = ["Places", "can_be_dialled", "plausible"]

ASK_AGAIN = 1.0
"""Seconds after which a member is told again that has not answered."""
ASKED_IN_VAIN = 3
"""After so many unanswered tellings another address of that member is tried, if there is one."""
MAX_ADDRESS_BYTES = 300
"""A host's name has up to 253 bytes, a socket's path up to 107."""
MOST_LISTENERS = 1 << 16
"""The latest clients that listen are told of moves. (One that is gone is noticed when told.)"""
TOLD_AT_ONCE = 64
"""Clients that one step tells of a move."""
MAX_MOVES = 1 << 62


class Places:
    """The members' addresses, as one server knows them; the server stores, sends and dials."""

    def __init__(self, settings: Settings) -> None:
        self._server = settings.server
        self._files, self._files_clients = settings.peer_addresses, settings.client_addresses
        """Those of this server's own file."""
        self.active = settings.server in settings.peer_addresses
        """False for a server that has no address to tell of (in the simulator)."""
        self._told: dict[ServerId, Place] = {}
        """What each member's directory was told to be reached at, this server included."""
        self.unknown: dict[ServerId, str] = {}
        """Where servers say that they are that are no members by their directories."""
        self._members: dict[ServerId, int] = {}
        self._configured: dict[ServerId, Member] = {}
        """Where the configuration says that they are, if it does."""
        self._asked: dict[ServerId, int] = {}
        """Members that do not know yet where this server is, and how often they were told."""
        self.due = NEVER
        """When to tell those again, monotonic seconds."""
        self._listeners: dict[ClientToken, None] = {}
        self.untold: dict[ClientToken, None] = {}
        """Clients that want to hear of each move, and those not told of the last one yet."""

    # --- this server -----------------------------------------------------------------------------

    def recover(self, incarnation: int, found: Iterable[Place]) -> None:
        """Take up what the directory remembers, and note whether this server has moved since."""
        if not self.active:
            return
        self._told = {place.server: place for place in found}
        me, mine = self._server, self._told.get(self._server)
        peer, client = self._files[me], self._files_clients.get(me, "")
        if mine is None or mine.incarnation != incarnation:
            self._told[me] = Place(me, incarnation, 1, peer, client)
        elif (mine.peer, mine.client) != (peer, client):
            self._told[me] = Place(me, incarnation, mine.moves + 1, peer, client)

    def join(self, members: Iterable[Member], now: float) -> None:
        """These are the members, by these directories; tell all of them."""
        members, before = list(members), self.client_addresses()
        changed = bool(self._configured)
        self._configured = {member.server: member for member in members}
        if not self.active:
            return
        self._members = {member.server: member.incarnation for member in members}
        if changed and self.client_addresses() != before:  # (not as an old directory told it)
            self.untold = dict(self._listeners)
        self._asked = dict.fromkeys((s for s in self._members if s != self._server), 0)
        self.due = now

    @property
    def known(self) -> tuple[Place, ...]:
        """The places to remember on the disk, and to tell."""
        told = self._told
        return tuple(
            told[server] for server in sorted(told)
            if server == self._server or told[server].incarnation == self._members.get(server)
        )  # fmt: skip

    # --- telling ---------------------------------------------------------------------------------

    def ask_again(self, now: float) -> tuple[list[ServerId], list[ServerId]]:
        """The servers to tell (again), and those that do not answer where they are dialled."""
        if now < self.due:
            return [], []
        asked = list(self._asked)
        silent = []
        for server in asked:
            self._asked[server] += 1
            if self._asked[server] > ASKED_IN_VAIN:
                self._asked[server] = 1
                silent.append(server)
        self.due = now + ASK_AGAIN if asked else NEVER
        return asked, silent

    def tell(self, server: ServerId, now: float) -> None:
        """A member has to hear (again) where this server is."""
        if server in self._members and self.active:
            self._asked.setdefault(server, 0)
            self.due = min(self.due, now + ASK_AGAIN)

    def tell_all(self, now: float) -> None:
        """Something is known now that the others may not know."""
        for server in self._members:
            if server != self._server:
                self._asked[server] = 0
        self.due = now

    # --- hearing ---------------------------------------------------------------------------------

    def hear(self, said: Introduction, sender: ServerId, now: float) -> list[ServerId]:
        """Take in what a member says; returns whose addresses have changed, perhaps our own.

        A server's own word goes before what others remember of it, and of those the newest counts.
        """
        mine = self._told.get(self._server)
        if mine is None:
            return []
        if said.to == mine.incarnation and mine in said.places:
            self._asked.pop(sender, None)
            if not self._asked:
                self.due = NEVER
        changed = []
        before = self.client_addresses()
        for place in said.places:
            server, held = place.server, self._told.get(place.server)
            if server == self._server:
                contradicts = place.moves >= mine.moves and place != mine
                if contradicts and place.incarnation == mine.incarnation:
                    self._told[server] = structs.replace(mine, moves=place.moves + 1)
                    changed.append(server)
            elif place.incarnation != self._members.get(server) or held == place:
                continue
            elif (
                server == sender
                or held is None
                or held.incarnation != place.incarnation
                or place.moves > held.moves
            ):
                self._told[server] = place
                changed.append(server)
        if changed and self.client_addresses() != before:
            self.untold = dict(self._listeners)
        return changed

    def hear_unknown(self, server: ServerId, address: str) -> bool:
        """Somebody that is not known by its directory yet says where it is; whether that is new."""
        if not (self.active and address) or self.unknown.get(server) == address:
            return False
        self.unknown[server] = address
        return True

    def moved(
        self, members: Iterable[Member], alive: Collection[ServerId]
    ) -> tuple[MemberChange, ...]:
        """Members that say that they are elsewhere than the configuration has them (M20).

        Of the others those alone that are `alive`.
        """
        found = []
        for member in members:
            told = self._told.get(member.server)
            if told is None or told.incarnation != member.incarnation:
                continue
            if member.server != self._server and member.server not in alive:
                continue
            client = told.client or member.client
            if (told.peer, client) != (member.peer, member.client):
                found.append(MemberChange("move", member.server, peer=told.peer, client=client))
        return tuple(found)

    # --- clients that listen ---------------------------------------------------------------------

    def listen(self, client: ClientToken) -> None:
        """A client is told now, and wants to hear of each move from here on."""
        self.forget(client)
        self._listeners[client] = None
        if len(self._listeners) > MOST_LISTENERS:
            self.forget(next(iter(self._listeners)))

    def take_untold(self, most: int) -> list[ClientToken]:
        """So many of those that have to be told; they count as told."""
        taken = list(islice(self.untold, most))
        for client in taken:
            del self.untold[client]
        return taken

    def forget(self, client: ClientToken) -> None:
        """A client is gone."""
        self._listeners.pop(client, None)
        self.untold.pop(client, None)

    # --- dialling --------------------------------------------------------------------------------

    def addresses(self, server: ServerId) -> list[str]:
        """Where to dial a server: by the own file, the configuration, itself, its new directory."""
        told, member = self._told.get(server), self._configured.get(server)
        found = [self._files.get(server, ""), "" if member is None else member.peer]
        found.append("" if told is None else told.peer)
        found.append(self.unknown.get(server, ""))
        return [address for address in dict.fromkeys(found) if address]

    def client_address(self, server: ServerId) -> str:
        """Where clients reach a server: as it says itself, else as its cluster or the file does."""
        told, member = self._told.get(server), self._configured.get(server)
        if told is not None and told.client and told.incarnation == self._members.get(server):
            return told.client
        configured = "" if member is None else member.client
        return configured or self._files_clients.get(server, "")

    def not_leader(self, leader: ServerId, servers: int) -> NotLeader:
        """The reply that names the leader (0: nobody is known) of so many servers."""
        return NotLeader(leader, self.client_address(leader), servers, self.client_addresses())

    def client_addresses(self) -> dict[ServerId, str]:
        """Those of all servers that are known."""
        servers = sorted(self._configured or self._files_clients)
        found = {server: self.client_address(server) for server in servers}
        return {server: address for server, address in found.items() if address}


def can_be_dialled(address: str) -> bool:
    """Whether an address that somebody told, if any, has the form of one."""
    return not address or (len(address.encode()) <= MAX_ADDRESS_BYTES and is_dialable(address))


def plausible(places: Sequence[Place]) -> bool:
    """Whether addresses and numbers can be those of servers: a frame may be damaged."""
    return len(places) <= MOST_SERVERS and all(
        1 <= place.server <= MOST_SERVERS
        and 0 < place.moves < MAX_MOVES
        and place.peer
        and all(map(can_be_dialled, (place.peer, place.client)))
        for place in places
    )
