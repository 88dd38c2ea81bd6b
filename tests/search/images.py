"""A server's whole state as one immutable, hashable value, and back again.

The breadth-first search keeps hundreds of thousands of states, most of whose parts are equal. An
image is made of nested tuples; the first place of each says what to make of the rest. What no
behaviour depends on (counters, clocks, what pykka needs) is left out, so that states that differ in
nothing else are one.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from paxon.actors import Ballot, PaxosServer
from paxon.actors.disk.storage import Marks, SnapshotInfo
from paxon.actors.execution.digests import Comparison, HashChain, Inquiry, SnapshotCheck
from paxon.actors.execution.sessions import Reply, Session
from paxon.actors.limits.turns import Openings, Stored
from paxon.actors.log import Slot, SlotLog
from paxon.actors.log_time import Chores, LogTime
from paxon.actors.messages import (
    P1A,
    P2A,
    Accepted,
    Batch,
    Command,
    DigestReply,
    Entry,
    Made,
    OpenSession,
    Query,
    ReplyStatus,
    Sealed,
    SnapshotOffer,
)
from paxon.actors.records.candidacy import Candidacy
from paxon.actors.records.catching_up import CatchingUp, Retry, Snapshots
from paxon.actors.records.changing import Changing, Opening
from paxon.actors.records.configuration import Configuration, Member
from paxon.actors.records.disks import Confirmation
from paxon.actors.records.following import Following
from paxon.actors.records.reads import Grants, ReadQueue, Rounds
from paxon.actors.records.reign import HeldRequests, Pending, Progress, Reign
from paxon.actors.records.thrift import Thrift
from tests.disks import MemoryDisk
from tests.harness import Register

__all__ = ["DISK", "Image", "freeze_disk", "freeze_server", "thaw_disk", "thaw_server"]

Image = tuple[Any, ...]

ATOMS = {
    int, float, str, bytes, bool, type(None), Ballot, Accepted, SnapshotInfo, Entry, Command,
    OpenSession, Query, P2A, Reply, ReplyStatus, DigestReply, SnapshotOffer, Configuration, Member,
    P1A, Sealed,
}  # fmt: skip
"""Immutable and hashable as they are."""

OBJECTS: dict[type, tuple[str, ...]] = {
    Slot: ("ballot", "value", "checksum", "chosen"),
    SlotLog: ("_slots", "discarded", "chosen_to", "last", "highest", "value_bytes", "configs"),
    Candidacy: (
        "ballot",
        "first_slot",
        "promised",
        "_expected",
        "_reported",
        "ask_again_at",
        "after",
    ),
    ReadQueue: ("waiting", "bytes"),
    Session: ("floor", "last_seen", "replies", "kept"),
    Batch: ("time", "entries", "reign"),
    Reign: (
        "_chosen_before",
        "takeover",
        "takeover_end",
        "next_slot",
        "votes",
        "unsynced",
        "batches",
        "large_slots",
        "charged_at",
        "stored",
        "retransmit_at",
        "retransmit_below",
        "thrift",
        "pending",
        "waiting",
        "reads",
        "chores",
        "followers",
        "rounds",
        "heartbeat_at",
        "told_commit",
        "comparison",
        "leaving",
        "changing",
        "asked",
        "moves_at",
        "sealing",
        "own_slot_at",
        "holds_back",
    ),
    Stored: ("_since", "_newer", "_older", "_newer_from", "_older_from"),
    Chores: (
        "at",
        "wanted",
        "wakeup",
        "renewals",
        "sizes",
        "count",
        "bytes",
        "renew_at",
        "not_before",
        "slot",
        "began",
        "stamped",
        "last_slot",
    ),
    LogTime: ("latest", "heard_in", "runs", "_offset", "_until", "_lost"),
    Rounds: (
        "began",
        "last",
        "confirmed",
        "confirmed_at",
        "confirmed_busy",
        "sent",
        "lease_until",
        "lease_wanted_until",
    ),
    Pending: ("entries", "bytes", "most_are_short"),
    Progress: ("accepted", "executed", "answered", "voter", "watches", "lost", "short"),
    Thrift: (
        "_delay",
        "_others",
        "_voters",
        "_needed",
        "_used",
        "_trial",
        "_watching",
        "put_off",
        "_put_off_bytes",
        "p2as_due_at",
        "first_slot",
        "prompt",
        "spare",
        "choosing",
        "_useful",
        "_beats_left",
        "_in_time",
        "round",
        "round_due_at",
    ),
    HashChain: ("version", "last", "_kept", "_pinned"),
    Comparison: ("equal", "early"),
    SnapshotCheck: ("offer", "unheard", "until", "objections"),
    Inquiry: ("question", "asked", "until", "answers"),
    Marks: (
        "promised",
        "chosen_to",
        "discarded",
        "lease",
        "snapshot",
        "counts",
        "configuration",
    ),
    Opening: ("tell", "named", "due", "asked", "_sealed"),
    Changing: ("members", "reach", "request", "until"),
    Retry: ("_pause", "_at"),
    Snapshots: ("executed_bytes", "poll_at", "began_at", "retry"),
    CatchingUp: (
        "known_commit",
        "teller",
        "leader_commit",
        "leader_ballot",
        "source",
        "asked",
        "turn",
        "ask_at",
        "progress",
        "patience",
        "incoming",
        "received",
        "check",
        "outsiders",
        "meets_at",
        "named",
        "retry",
    ),
    HeldRequests: ("requests", "_bytes", "tried"),
    Following: (
        "_most_excused",
        "heir",
        "heard_at",
        "busy",
        "heard_busy",
        "election_at",
        "retry_at",
        "round",
        "pre_votes",
    ),
    Grants: ("until", "ballot", "_others_until", "forget_at", "_stored", "_longest"),
    Confirmation: (
        "server",
        "incarnation",
        "life",
        "count",
        "pending",
        "asked_at",
        "vouched",
        "may_store",
        "newest",
        "seal",
        "seal_teller",
        "entering",
        "told",
        "made_here",
        "_sure_to",
        "listed",
        "_own_epoch",
        "_directories",
        "_told",
        "confirmed_by",
        "denied_by",
        "ask_at",
        "all_until",
    ),
}
"""What an object of each class consists of. (The cluster is in force from the start.)"""

OMITTED = {
    "actor_urn", "actor_inbox", "actor_stopped", "_actor_ref", "settings", "_environment",
    "_clock", "_random", "_now", "_started_at", "_failure", "_counters", "_peer_handlers",
    "_client_handlers", "_policy", "_contends", "_all_bits", "_log_at", "_storage",
    "_network", "application", "_round_guard", "_features", "_count",
    "_next_count", "membership", "disks", "_oddities", "_synced", "_others", "_majority",
    "_tidy_at",
    "_stopped_at", "comparing",
    "making", "places", "reception", "snapshotting", "telling", "embedded", "on_local",
    "_execute_until", "_outbox", "_left_over", "watches", "latencies",
}  # fmt: skip
"""A server's attributes that are the same in all states, or that nothing depends on."""

COUNTED = {"_next_count"}
COUNTED_DISKS = ("counts", "answered", "_heard", "_lent", "_lower")
"""What does matter where commits are counted: of the server, and of what it knows of disks."""
CONFIRMATION = "confirmation"
COMPARING = ("inquiry", "_again_at", "_gap", "_alarm", "_alarm_until")

DISK = (
    "durable", "_marks", "_rows", "_ballots", "_replaced", "dirty", "_lazy", "_accepted",
    "_images", "_ready", "_incoming", "_received", "_unusable", "_sealed", "condemned",
)  # fmt: skip
COUNTED_DISK = (*DISK, "count", "created", "lives", "refused")


def always(value: Any) -> Any:
    """An attribute of a disk that stays as it is, whatever it is set to."""
    return property(lambda _disk: value, lambda _disk, _other: None)


def freeze(value: Any) -> Any:
    """Raises `TypeError` for what it does not know: it might not be copied as it should."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is tuple or kind is list or kind is deque:
        return (kind, *map(freeze, value))
    if kind is dict:
        return (dict, *sorted([(key, freeze(held)) for key, held in value.items()], key=_key))
    if kind is set:
        return (set, frozenset(value))
    if kind is bytearray:
        return (bytearray, bytes(value))
    names = OBJECTS.get(kind)
    if names is None:
        raise TypeError(f"no image of a {kind.__name__}: add it to tests/search/images.py")
    return (kind, *[freeze(getattr(value, name)) for name in names])


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]


def thaw(image: Any) -> Any:
    """A new object of what `freeze` was given."""
    if type(image) is not tuple:
        return image
    kind = image[0]
    if kind is dict:
        return {key: thaw(held) for key, held in image[1:]}
    if kind is set or kind is bytearray:
        return kind(image[1])
    if kind is tuple or kind is list or kind is deque:
        return kind(map(thaw, image[1:]))
    if kind is Session or kind is Batch or kind is Slot:
        return kind(*map(thaw, image[1:]))
    if kind is Marks:
        return Marks(**dict(zip(OBJECTS[Marks], map(thaw, image[1:]), strict=True)))
    made = kind.__new__(kind)
    for name, held in zip(OBJECTS[kind], image[1:], strict=True):
        object.__setattr__(made, name, thaw(held))
    return made


def freeze_server(server: PaxosServer, *, counted: bool = False) -> Image:
    """The state of a running server, without its disk."""
    application = server.application
    machine, sessions = application.machine, application.sessions
    assert isinstance(machine, Register)
    outbox = server._outbox
    assert not (outbox.early or outbox.to_all or outbox.to_peer or outbox.to_client)
    omitted = OMITTED - COUNTED if counted else OMITTED
    own = [(name, freeze(value)) for name, value in server.__dict__.items() if name not in omitted]
    known = COUNTED_DISKS if counted else ()
    own += [(name, freeze(getattr(server.disks, name))) for name in known]
    own += [(name, freeze(getattr(server.comparing, name))) for name in COMPARING]
    if counted:
        own.append((CONFIRMATION, freeze(server.membership.confirmation)))
    own.sort(key=_key)
    return (
        tuple(own),
        application.executed,
        freeze(application.chain),
        application.configuration,
        application.reign,
        tuple(machine.applied),
        sessions.time,
        # The longest idle session comes first: their order matters.
        *(
            tuple((number, freeze(session)) for number, session in table.items())
            for table in (sessions._sessions, sessions._unused)
        ),
    )


def thaw_server(image: Image, server: PaxosServer) -> None:
    """Make `server` what `image` is of."""
    own, executed, chain, configuration, reign, applied, time, used, unused = image
    for name, value in own:
        owner: object = server
        if name in COUNTED_DISKS:
            owner = server.disks
        elif name == CONFIRMATION:
            owner = server.membership
        elif name in COMPARING:
            owner = server.comparing
        setattr(owner, name, thaw(value))
    if all(name != CONFIRMATION for name, _ in own):  # nobody asks, and nobody was told of more
        server.membership.confirmation.newest = server.configuration
    if server.membership.joined is not server.configuration:
        server._join(server.configuration)
    outbox = server._outbox  # which whoever died in a step has not emptied
    outbox.early, outbox.to_all, outbox.to_peer, outbox.to_client = [], [], {}, {}
    outbox.transferred, outbox.replied_bytes = {}, 0
    server.reception.openings = Openings()
    application = server.application
    if server._reign is not None:  # (nothing is left of what the image leaves out)
        server._reign.futures = {}
        pending = Pending(application.machine, server.reception.end_share)
        vars(pending).update(vars(server._reign.pending))
        server._reign.pending = pending
    machine, table = application.machine, application.sessions
    assert isinstance(machine, Register)
    application.executed = executed
    application.chain = thaw(chain)
    application.configuration = configuration
    application.reign = reign
    machine.applied = list(applied)
    table.time = time
    table._sessions = {number: thaw(session) for number, session in used}
    table._unused = {number: thaw(session) for number, session in unused}
    table.kept = sum(session.kept for session in table._sessions.values())


def freeze_disk(disk: MemoryDisk, *, counted: bool = False) -> Image:
    names = COUNTED_DISK if counted else DISK
    return tuple(freeze(getattr(disk, name)) for name in names)


def thaw_disk(image: Image, disk: MemoryDisk, made: Made) -> None:
    """Make `disk` what `image` is of; `made` is the cluster that it belongs to."""
    for name, value in zip(COUNTED_DISK, image, strict=False):  # (perhaps only the first of these)
        setattr(disk, name, thaw(value))
    for marks in (disk.durable, disk._marks):
        marks.made, marks.in_force = made, True
