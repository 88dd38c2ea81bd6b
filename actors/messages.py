"""Every message of the protocol: a frozen tagged struct each, with who sends it and why.

Peers talk in `PeerMessage`, clients and servers in `ClientMessage` and `ServerReply`. On the wire
each frame carries a list of them (`paxon.transport.codec`), so all that one burst has for one
receiver travels together. The protocol itself never sees bytes other than opaque values.

Fields of one name mean the same everywhere: `id` and `nonce` tie a reply to its request, random
63-bit numbers (a client counts its queries, watches and questions for status); `count` is the
number of the commit in the sender's directory that a message relies on; `knows` is what its release
knows (`Features`), `limits` a checksum over what its state machine does; `addresses` are where
clients reach each server, as far as the sender knows.

Surplus elements are refused, never skipped: how deep a decoder may follow nested ones depends on
where it is called from (rule 15). So any change of a message needs a new `PROTOCOL_VERSION`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Annotated, Literal, TypeAlias

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId, Wire
from paxon.actors.members import AskMembers, ChangeMembers, Made, Rehearsal, Rehearsed
from paxon.actors.slot_values import CONFIG, NO_OP, RENEWAL, SETTINGS, Accepted, Batch, Entry

__all__ = [
    "PROTOCOL_VERSION", "VERSION", "CONFIG", "NO_OP", "RENEWAL", "SETTINGS", "Accepted", "Entry",
    "Batch", "P1A", "P1B", "P2A", "P2B", "Heartbeat", "HeartbeatReply", "PreVote", "PreVoteReply",
    "CatchUpRequest", "CatchUp", "SnapshotOffer", "SnapshotRequest", "SnapshotChunk",
    "DigestRequest", "DigestReply", "Introduction", "Made", "CountQuestion", "CountAnswer",
    "Place", "CommitNote", "Sealed", "Handover", "Rehearsal", "Rehearsed",
    "PeerMessage", "MOST_UNWATCHED", "OpenSession", "Command", "Query", "StatusRequest",
    "SlotRequest", "ChangeSettings", "Renew", "Stranger", "Watch", "Unwatch", "WatchCheck",
    "TellAddresses", "TransferLeader", "ChangeMembers", "AskMembers", "ClientMessage",
    "ReplyStatus", "ReadMode", "SessionOpened", "CommandReply", "QueryReply", "NotLeader",
    "Overloaded", "StatusReply", "SlotReply", "OtherCluster", "PortOfServers", "WatchesHeld",
    "Addresses", "ServerReply", "overloaded", "retry_after", "watch_digest",
]  # fmt: skip

PROTOCOL_VERSION = 13
"""Goes into every frame's header; a server refuses frames of any other version."""
VERSION = "0.1.0"
"""The release, as `paxon status` shows it for each server; tests compare it with pyproject.toml."""


# --- between servers -----------------------------------------------------------------------------


class P1A(Wire, frozen=True, tag=1):
    """Candidate → all: promise me this ballot (PMMC §2.2, phase 1a)."""

    ballot: Ballot
    first_slot: int
    """Report what you accepted from this slot on: the candidate's first slot not known chosen."""
    after: Ballot | None = None
    """The ballot of the leader that handed over to the candidate. Nobody proposes, answers or sends
    heartbeats in it any more, so courtesy and leases granted to it, and no others, are waived."""


class P1B(Wire, frozen=True, tag=2):
    """Acceptor → candidate: my promise and what I accepted, in bounded chunks (phase 1b)."""

    ballot: Ballot
    """The acceptor's ballot now: equal to the P1A's if promised, above it if refused."""
    first_slot: int
    """First slot that this chunk covers: that of the P1A it answers."""
    next_slot: int
    """Ask again from here; 0 when this chunk is the last."""
    accepted: list[Accepted]
    chosen_to: int
    """All slots up to here are known chosen by the sender, and its values for them are final."""
    discarded: int
    """Slots up to here are gone at the sender: chosen, executed and covered by a snapshot."""
    count: int = 0


class P2A(Wire, frozen=True, tag=3):
    """Leader → others: accept this value for this slot in my ballot (PMMC §2.3, phase 2a)."""

    ballot: Ballot
    slot: int
    value: bytes
    commit: int
    """The leader's commit index: every slot up to it is chosen."""


class P2B(Wire, frozen=True, tag=4):
    """Acceptor → leader: what I did with the P2As for slots first..last (phase 2b)."""

    ballot: Ballot
    """The ballot of the P2As that this answers, and that was accepted unless `promised` is set."""
    first: int
    last: int
    promised: Ballot | None = None
    """Set when the P2As were rejected: the higher ballot that the acceptor has promised."""
    count: int = 0


class Heartbeat(Wire, frozen=True, tag=5):
    """Leader → others: I lead; here is how far the log is chosen and may be discarded."""

    ballot: Ballot
    round: int
    """Numbers this leader's heartbeat rounds; reads are confirmed by replies to a later one."""
    commit: int
    discard_to: int
    """The lowest last-executed slot of all servers."""
    incarnations: list[tuple[ServerId, int, int]] = []
    """Which disk (see `Storage.incarnation`) the leader knows each server by, and of how many of
    that disk's commits it has been told."""
    lease: float = 0.0
    """Seconds for which the leader may answer reads on the strength of this round alone: a server
    that answers it helps no other to lead for that long, by its own clock. 0: no lease."""
    drift: float = 0.0
    """The fraction by which the leader takes clocks to differ, at most."""
    time: int = 0
    """The log's time at the leader, nanoseconds."""


class HeartbeatReply(Wire, frozen=True, tag=6):
    """Follower → leader: I follow your ballot (or have promised a higher one)."""

    ballot: Ballot
    """The follower's promise: above the leader's if it no longer follows."""
    round: int
    """The round that this answers; 0 if the heartbeat's ballot is not the one promised."""
    executed: int
    knows: int = 0
    limits: int = 0
    digest_version: int = 0
    digest: bytes = b""
    """Its hash after slot `executed` (execution/digests.py); b"" if it is not kept any more."""
    count: int = 0
    watches: bool = False
    """Whether this server holds any, and so wants to hear of commits at once (`CommitNote`)."""
    short: bool = False
    """Whether its disk has no room for more of the log just now (docs/design/full-disks.md)."""


class PreVote(Wire, frozen=True, tag=7):
    """Would-be candidate → all: have you lost the leader too? Changes no state.

    Raft thesis §9.6; policy `stable` only.
    """

    round: int
    """Numbers the sender's attempts, to match replies."""
    first_slot: int
    """The sender's first slot not known chosen."""
    epoch: int = 0
    """In which the sender wants to lead."""


class PreVoteReply(Wire, frozen=True, tag=8):
    """Server → would-be candidate: yes (I lost it too, and can bring you up) or no."""

    round: int
    granted: bool
    chosen_to: int
    discarded: int
    knows: int = 0
    limits: int = 0
    count: int = 0


class CatchUpRequest(Wire, frozen=True, tag=9):
    """Late server → any server: send me the chosen values from this slot on."""

    first_slot: int


class CatchUp(Wire, frozen=True, tag=10):
    """Answer to `CatchUpRequest`: consecutive chosen values, bounded; ask again for more."""

    accepted: list[Accepted]
    """Each with a ballot in which the value was proposed."""
    chosen_to: int
    """How far the sender could go on."""


class SnapshotOffer(Wire, frozen=True, tag=11):
    """Answer to `CatchUpRequest` where the log no longer reaches back: take my snapshot instead."""

    slot: int
    """The snapshot is the state after executing this slot."""
    size: int
    """Bytes in all."""
    checksum: int
    """CRC-32 of the whole image."""
    digest_version: int = 0
    digest: bytes = b""
    """The hash after that slot."""
    vouched: tuple[ServerId, ...] = ()
    """Who has told the sender that very hash, or one after a later slot that the sender has too."""


class SnapshotRequest(Wire, frozen=True, tag=12):
    """Late server → sender of an offer: the bytes from `offset` on, please."""

    slot: int
    offset: int


class SnapshotChunk(Wire, frozen=True, tag=13):
    """One bounded piece of a snapshot."""

    slot: int
    offset: int
    data: bytes


class DigestRequest(Wire, frozen=True, tag=14):
    """Any server → others: which hashes do you have after these slots (docs/design/digests.md)?"""

    version: int
    first_slot: int
    last_slot: int
    slot: int
    digest: bytes
    """The sender's own hash after `slot`; b"": it says none."""


class DigestReply(Wire, frozen=True, tag=15):
    """Answer to `DigestRequest`: what is known of it."""

    version: int
    first_slot: int
    hashes: bytes
    """Those after `first_slot` and the slots that follow, 16 bytes each; b"" if none is known."""
    voting: bool


class Place(Wire, frozen=True):
    """Where a directory's server is reached, a hint; `moves` counts from 1 how often it moved."""

    server: ServerId
    incarnation: int
    moves: int
    peer: str
    client: str


class Introduction(Wire, frozen=True, tag=16):
    """Server → others: who and where I am, and what I hold of the making of our cluster.

    Sent until that is in force, then until each member knows where the sender is, and in answer. It
    alone passes between clusters, or where none is.
    """

    incarnation: int
    """Of the sender's data directory."""
    to: int
    """In an answer the receiver's incarnation, as it named it; else 0."""
    asks: bool
    """Whether it wants an answer."""
    name: str
    """The cluster's name in the sender's file."""
    servers: tuple[ServerId, ...]
    """The ids in the sender's file."""
    made: Made | None = None
    """What the sender has stored, durably; None: its directory is fresh."""
    in_force: bool = False
    """The sender knows that every member has stored `made`."""
    places: tuple[Place, ...] = ()
    """Where the sender is, by its own file, and the other members, as far as it knows."""
    joins: bool = False
    rejoins: bool = False
    """The sender is to become a member of a cluster that is in force; in its lost one's place."""
    chosen_to: int = 0
    """How far the sender knows the log as chosen."""

    def place_of(self, sender: ServerId) -> Place | None:
        """Where the sender itself is."""
        return next((place for place in self.places if place.server == sender), None)


class CountQuestion(Wire, frozen=True, tag=17):
    """Started server → all: have you heard of a later state of this directory? (old-copies.md)"""

    life: int
    """Random: comes back in the answers."""
    incarnation: int
    count: int
    """The number of its last commit."""
    denies: int = 0
    """If not 0: the sender, which takes part, was answered with this and never told so much."""


class CountAnswer(Wire, frozen=True, tag=18):
    """Any server → one that asks: what I know of your directory."""

    life: int
    incarnation: int
    """The directory that the sender knows the asker by; 0: none yet."""
    remembered: int
    """The highest count that it was told by that very directory; 0: none."""
    configuration: bytes = b""
    """The CONFIG of the sender's epoch; b"": it is in the first one."""
    sender: int = 0
    """The sender's own directory."""
    ballot: Ballot = NO_BALLOT
    """In which the sender holds that CONFIG; NO_BALLOT: it does not any more."""


class CommitNote(Wire, frozen=True, tag=20):
    """Leader → servers that hold watches: this is chosen, and I have nothing else to send now.

    (Heartbeats would tell of it later.) Not answered.
    """

    ballot: Ballot
    commit: int
    """All up to this slot is chosen."""


class Sealed(Wire, frozen=True, tag=21):
    """Server → all of an epoch and the next: that epoch has ended (docs/membership.md).

    Also the only answer to a server of an earlier epoch, which then asks for the slots it misses.
    """

    epoch: int
    slot: int
    """The last slot of that epoch: its CONFIG."""
    start: bool = False
    """The receiver is to lead the next one."""


class Handover(Wire, frozen=True, tag=22):
    """Leader → the server that is to lead next: my reign in this ballot is over for good (M21)."""

    ballot: Ballot


PeerMessage: TypeAlias = (
    P1A | P1B | P2A | P2B | Heartbeat | HeartbeatReply | PreVote | PreVoteReply | CatchUpRequest
    | CatchUp | SnapshotOffer | SnapshotRequest | SnapshotChunk | DigestRequest | DigestReply
    | Introduction | CountQuestion | CountAnswer | CommitNote | Sealed | Handover
    | Rehearsal | Rehearsed
)  # fmt: skip


# --- clients to servers --------------------------------------------------------------------------

ReadMode = Literal["linearizable", "lease", "stale"]
MOST_UNWATCHED = 20_000
"""Watches that one `Unwatch` names at most. Lists in clients' messages have bounds: a frame of 30
MiB with one of small numbers would take half a second, and a gigabyte, to read."""


class OpenSession(Wire, frozen=True, tag=1):
    """Client → leader: give me a session (a command in the log, so all servers know it)."""

    nonce: int


class Command(Wire, frozen=True, tag=2):
    """Client → leader: execute this once. The fields are those of `Entry`."""

    session: int
    seq: int
    acked: int
    after: int
    command: bytes


class Query(Wire, frozen=True, tag=3):
    """Client → leader (any server for stale reads): answer from the state, write nothing."""

    id: int
    mode: ReadMode
    query: bytes


class StatusRequest(Wire, frozen=True, tag=4):
    """Anyone → server: how are you? Answered at once by every server."""

    id: int
    digest_slot: int = 0
    """Say the hash after this slot; 0: after the last one executed."""
    state: bool = False
    """Also compute `state_digest`, for which the server may stand still for 20 ms."""


class SlotRequest(Wire, frozen=True, tag=5):
    """Tests → server: what is in this slot? (read-only introspection)"""

    id: int
    slot: int


SettingName: TypeAlias = Annotated[str, msgspec.Meta(max_length=100)]


class ChangeSettings(Wire, frozen=True, tag=6):
    """Client → leader: agree on other values (docs/running/settings.md). Answer: a `QueryReply`."""

    id: int
    changed_at: int
    """See `Change` (actors/execution/agreed.py), as the next."""
    values: Annotated[dict[SettingName, int | float], msgspec.Meta(max_length=100)]


class Renew(Wire, frozen=True, tag=11):
    """Client → leader: let these leases live on. Answered by a `QueryReply`.

    It belongs to no session: executed as often as it comes, it is answered anew each time. A reply
    kept from the first time would make a client believe in a lease that has ended since.
    """

    id: int
    command: bytes
    """For the state machine, which has to know it for a renewal (`StateMachine.renews`)."""


class Stranger(Wire, frozen=True, tag=7):
    """In place of a frame whose header names another cluster: nothing in it counts here."""

    identity: int
    """The cluster that the client takes this for."""


class Watch(Wire, frozen=True, tag=8):
    """Client → any server: a read that waits until there is something to answer (rule 14).

    Answered by a `QueryReply`, and no more unless that says GOES_ON; then the client asks on from
    there, here or elsewhere. One with the id of another that is held takes its place.
    """

    id: int
    query: bytes
    near: bool = False
    """Meant for the leader: another server names it, and it does not take this if it holds many."""
    answers: int = 1
    """So many at most before the client asks on; the ids of the further ones follow."""


class Unwatch(Wire, frozen=True, tag=9):
    """Client → server: these watches are no longer wanted; [] stands for all. Not answered."""

    ids: Annotated[list[int], msgspec.Meta(max_length=MOST_UNWATCHED)]


class WatchCheck(Wire, frozen=True, tag=10):
    """Client → server that holds its watches: do you still? Answered by `WatchesHeld`.

    The watches of a client that does not ask for 30 seconds are dropped.
    """

    id: int


class TellAddresses(Wire, frozen=True, tag=15):
    """Client → any server, once over each connection: tell me where all are, and of each change.

    Answered by `Addresses`, now and then. A client that is silent while servers are replaced would
    find none of them afterwards.
    """


class TransferLeader(Wire, frozen=True, tag=12):
    """Client → leader: let another server lead. Answered by a `QueryReply` with that one's id.

    Answered when the reign has ended; by whoever leads in a later ballot already, with its own id.
    """

    id: int
    ballot: Ballot
    """The reign that is to end."""
    to: ServerId
    """Who is to lead; 0: whoever the leader finds fittest."""


ClientMessage: TypeAlias = (
    OpenSession | Command | Query | StatusRequest | SlotRequest | ChangeSettings | Renew | Stranger
    | Watch | Unwatch | WatchCheck | TellAddresses | TransferLeader | ChangeMembers | AskMembers
)  # fmt: skip


# --- servers to clients --------------------------------------------------------------------------


class ReplyStatus(IntEnum):
    """How a command or query ended."""

    OK = 0
    """Executed; the payload is the state machine's reply."""
    FAILED = 1
    """The state machine raised, on every server alike, or it cannot be now; the payload tells."""
    EXPIRED = 2
    """The session is unknown: it expired or never was. Not executed now; earlier tries may have."""
    OVERLOADED = 3
    """Not executed: a bound is reached. The payload (`overloaded`) says when to come again, why."""
    FORGOTTEN = 4
    """Executed before, and the client had said that it has the reply."""
    OUT_OF_ORDER = 5
    """Not executed: the command named in its `after` has not been. Send both again, in order."""
    INVALID = 6
    """Refused for its form; the payload says why."""
    TOO_LARGE = 7
    """Refused: longer than `max_command_bytes` allows by now."""
    NOT_CURRENT = 8
    """This server hears no leader, or is far behind: the client watches elsewhere."""
    GOES_ON = 9
    """As OK, of a watch that is held still, from behind this answer on."""


def overloaded(reason: str, seconds: float) -> bytes:
    """The payload of a reply with status OVERLOADED: milliseconds in four bytes, then the text."""
    return min(round(seconds * 1000), 0xFFFF_FFFF).to_bytes(4, "big") + reason.encode()


def retry_after(payload: bytes) -> tuple[float, str]:
    """Seconds to wait and the reason, of the payload of a reply with status OVERLOADED."""
    return int.from_bytes(payload[:4], "big") / 1000, payload[4:].decode(errors="replace")


class SessionOpened(Wire, frozen=True, tag=1):
    """Leader → client: your session."""

    nonce: int
    session: int
    language: str = ""
    """In which the cluster's state machine takes commands (`StateMachine.language`)."""
    max_command_bytes: int = 0
    """What is agreed now, so that the client packs no more together; 0: not told."""
    max_outstanding: int = 0
    addresses: dict[ServerId, str] = {}


class CommandReply(Wire, frozen=True, tag=2):
    """Leader → client: how command `seq` ended."""

    session: int
    seq: int
    status: ReplyStatus
    payload: bytes


class QueryReply(Wire, frozen=True, tag=3):
    """Server → client: the answer to query or change `id`."""

    id: int
    status: ReplyStatus
    payload: bytes


class NotLeader(Wire, frozen=True, tag=4):
    """Server → client: I do not lead; send all that is unanswered to `address` instead."""

    leader: ServerId
    """Who the sender thinks leads; 0 if it knows nobody."""
    address: str
    """That server's client address; empty if unknown."""
    servers: int = 0
    """How many servers the cluster has; 0: the sender does not say."""
    addresses: dict[ServerId, str] = {}


class StatusReply(Wire, frozen=True, gc=True, tag=5):
    """Server → anyone: its state now. Slots are numbers from 1; 0 means none yet."""

    id: int
    server: ServerId
    cluster: str
    role: str
    """"leader", "candidate" or "follower"."""
    ballot: Ballot
    leader: ServerId
    """Who it thinks leads; 0 if nobody."""
    accepted: int
    """The highest slot with anything accepted (last not empty)."""
    chosen: int
    """End of the chosen prefix: the commit index."""
    executed: int
    discarded: int
    snapshot: int
    """Slot of the last durable snapshot."""
    uptime: float
    """Seconds since the server started."""
    disk_bytes: int
    state_digest: str
    """Fingerprint of state and sessions at `executed`; "": not asked for, or there is none."""
    counters: dict[str, int]
    """What happened so far: elections, preemptions, syncs, messages, dropped frames, …"""
    policy: str = ""
    sessions: int = 0
    version: str = ""
    agreed: dict[str, int | float] = {}
    agreed_from: int = 0
    """The settings in force after `executed` (docs/running/settings.md), and from which slot on."""
    digest_version: int = 0
    digest_slot: int = 0
    digest: str = ""
    """The hash after `digest_slot`, hexadecimal (docs/design/digests.md); "" if it is not known."""
    alarm: str = ""
    """What is wrong, if servers have executed different things."""
    identity: int = 0
    """The cluster's identity; 0 while it is not in force here."""
    members: tuple[ServerId, ...] = ()
    """The ids of the cluster's servers, as its directory has them; empty while it has none."""
    epoch: int = 0
    """How often the members have changed, as far as this server knows (docs/membership.md)."""
    part: str = ""
    """What it is among them: "voter", "learner", or "none"; "" before the cluster is in force."""
    waits_for: str = ""
    """What stands between this server and its cluster, in a sentence; "" once it is in force."""
    addresses: dict[ServerId, str] = {}
    time: int = 0
    """The log's time as far as the sender knows it, nanoseconds (docs/design/time.md)."""


class SlotReply(Wire, frozen=True, tag=6):
    """Server → tests: a slot's status ("EMPTY", "ACCEPTED", "CHOSEN", "CLEARED") and value."""

    id: int
    slot: int
    status: str
    value: bytes
    first_non_cleared: int
    last_non_empty: int


class OtherCluster(Wire, frozen=True, tag=7):
    """Server → a client of another cluster: nothing that you sent was taken in here."""

    name: str
    """The name of the server's cluster."""
    identity: int
    """Its identity."""
    asked: int
    """The identity of the cluster that the client named."""


class Overloaded(Wire, frozen=True, tag=8):
    """Server → client: I have thrown away something that you sent; send what is unanswered again.

    Not before the time given. For what has no reply with a status, and for many messages at once.
    """

    retry_after_ms: int
    reason: str = ""


class PortOfServers(Wire, frozen=True, tag=9):
    """Server → a client at the port where servers talk to each other: nothing was taken in."""

    server: ServerId
    address: str
    """Where clients reach that server; empty if it does not know."""


class WatchesHeld(Wire, frozen=True, tag=10):
    """Server → client: so many of your watches are held here; no others are."""

    id: int
    """As in the `WatchCheck`."""
    held: int
    through: bytes
    """How far all of them are complete, as the state machine says it."""
    current: bool = True
    """False: this server hears no leader or is far behind, and holds none."""
    digest: int = 0
    """Of the ids that their next answers will have (`watch_digest`): a client that expects others
    has lost an answer, or its questions have not come."""


def watch_digest(ids: Iterable[int]) -> int:
    """Of ids of answers to watches, in whatever order."""
    return sum(each * each for each in ids) % (1 << 62)


class Addresses(Wire, frozen=True, tag=11):
    """Any server → client that has sent `TellAddresses`: here servers are by now."""

    addresses: dict[ServerId, str]
    keys: dict[ServerId, str] = {}
    """These servers' public keys; none where there are no keys."""


ServerReply: TypeAlias = (
    SessionOpened | CommandReply | QueryReply | NotLeader | StatusReply | SlotReply
    | OtherCluster | Overloaded | PortOfServers | WatchesHeld | Addresses
)  # fmt: skip
