"""A server's settings: validated when made, so that a wrong one is one clear sentence at start."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

from paxon.actors.ballot import MOST_SERVERS, ServerId
from paxon.actors.execution.agreed import NAMES, Number, check_values
from paxon.actors.limits.allowances import MAX_TRANSFER_BYTES

__all__ = ["Settings", "SettingsError", "PolicyName", "of_each_server"]

PolicyName = Literal["stable", "immediate", "random", "backoff"]

MAX_CLUSTER_BYTES = 200
"""Of a cluster's name: it stands in the directory's witness, which is written in one piece."""
MOST, LONGEST = 1 << 40, 86_400.0
"""No count and no size is larger: numbers have to fit into messages and databases. And no time of
an election, in seconds: what waits has to be told when."""


class SettingsError(ValueError):
    """A setting is missing, of the wrong type or out of range; the text says which and why."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a `PaxosServer` is told at its start. Times are seconds, sizes are bytes.

    Who it is:

    - cluster: the cluster's name. Data directories of a cluster of another name are refused.
    - server: this server's id, from 1.
    - servers: the ids of all servers that make the cluster, this one included. Once it is made, its
      members come from the data directory and nowhere else (docs/design/making-a-cluster.md).
    - client_addresses: where clients reach each server: what they are told.
    - peer_addresses: where servers reach each other, as far as this one was told; hints
      (docs/design/addresses.md).

    Elections (docs/design/elections.md):

    - policy: "stable", "immediate", "random" or "backoff".
    - heartbeat_interval: so often a leader says that it lives.
    - election_timeout_min, election_timeout_max: a follower tries to lead after a random time
      between these without a heartbeat. Leases of less than four times the longer one are taken
      for lost by their owners at a change of leader: 2 s at least are granted, whatever it is.
    - backoff_base: policy "backoff": the first wait is drawn from 0 to this. It doubles at each
      preemption …
    - backoff_cap: … up to this.
    - contend: for the contention benches: a server that gets a client's command while it does not
      lead starts phase 1 for it instead of sending the client to the leader.
    - join: this server's fresh directory is to become a member's of a cluster that is in force:
      `servers` names those of that cluster that are known, and this one (docs/membership.md).
    - rejoin: the same, in the place of this server's directory that was lost: the leader gives it
      that, once it is level.
    - max_clock_drift: leases assume that no two clocks' speeds differ by more than this fraction.
    - leases: whether the leader answers queries of mode "lease" (policy "stable" only).

    Proposing:

    - window: slots in flight at most: proposed and not yet chosen.
    - batch_bytes: commands are packed into one slot up to this size (a larger one goes alone).
    - max_pending_bytes: beyond so many bytes of commands waiting at the leader it is overloaded.
    - thrifty_delay: by so much later a leader asks the servers beyond a majority (docs/thrift.md);
      0: all at once. At most half the heartbeat interval counts. `LocalCluster`, whose servers
      share one machine, sets it to 0.01.
    - retransmit_interval: P2As and requests unanswered for this long are sent again.

    What all servers agree on (docs/running/settings.md). What is given here is what a new cluster
    begins with. Later it counts for nothing, and a warning tells what is in force:

    - session_ttl: a session idle for this long in the log's time expires.
    - max_sessions: beyond this the longest idle session expires first …
    - session_min_idle: … if it has been idle for so long; else no session is opened.
    - max_kept_each: bytes of replies that a session may leave unacknowledged.
    - max_kept: the same for all sessions together.
    - max_command_bytes: the largest command.
    - max_outstanding: commands that a session may have unacknowledged.

    The log:

    - retain_slots, retain_bytes: while a server is down, the log keeps at most about so many slots
      and bytes. Past either it is cut at a durable snapshot.
    - snapshot_bytes: a snapshot is taken when this much was executed since the last (less if the
      state is nearly as large or larger, down to an eighth of it: docs/design/real-resources.md) …
    - snapshot_slots: … or this many slots, so that the disk can be given back and replay is short.
    - transfer_bytes: the size of one chunk of P1B, catching up, or snapshot.
    """

    cluster: str
    server: ServerId
    servers: tuple[ServerId, ...]
    client_addresses: dict[ServerId, str] = {}
    peer_addresses: dict[ServerId, str] = {}

    policy: PolicyName = "stable"
    heartbeat_interval: float = 0.05
    election_timeout_min: float = 0.3
    election_timeout_max: float = 0.5
    backoff_base: float = 0.01
    backoff_cap: float = 1.0
    contend: bool = False
    join: bool = False
    rejoin: bool = False
    max_clock_drift: float = 0.05
    leases: bool = True

    window: int = 16
    batch_bytes: int = 1 << 20
    max_pending_bytes: int = 64 << 20
    thrifty_delay: float = 0.0
    retransmit_interval: float = 0.1

    session_ttl: float | None = None
    max_sessions: int | None = None
    session_min_idle: float | None = None
    max_kept_each: int | None = None
    max_kept: int | None = None
    max_command_bytes: int | None = None
    max_outstanding: int | None = None

    retain_slots: int = 100_000
    retain_bytes: int = 64 << 20
    snapshot_bytes: int = 32 << 20
    snapshot_slots: int = 50_000
    transfer_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        def require(condition: bool, text: str) -> None:
            if not condition:
                raise SettingsError(text)

        wrong_type = _wrong_field(self)
        require(not wrong_type, wrong_type)
        require(bool(self.cluster), "cluster: the id must not be empty")
        require(
            self.cluster.isprintable() and len(self.cluster.encode()) <= MAX_CLUSTER_BYTES,
            f"cluster: {self.cluster!r:.80} must be one line of printable text, of at most "
            f"{MAX_CLUSTER_BYTES} bytes",
        )
        require(len(self.servers) > 0, "servers: at least one server id is needed")
        require(
            all(1 <= s <= MOST_SERVERS for s in self.servers),
            f"servers: ids run from 1 to {MOST_SERVERS}, got {list(self.servers)}",
        )
        require(
            len(set(self.servers)) == len(self.servers),
            f"servers: an id occurs twice in {list(self.servers)}",
        )
        require(
            self.server in self.servers,
            f"server: id {self.server} is not among the cluster's servers {list(self.servers)}",
        )
        require(
            0 < self.heartbeat_interval < self.election_timeout_min,
            f"heartbeat_interval ({self.heartbeat_interval} s) must be above 0 and below "
            f"election_timeout_min ({self.election_timeout_min} s)",
        )
        require(
            self.election_timeout_min <= self.election_timeout_max,
            f"election_timeout_min ({self.election_timeout_min} s) must not exceed "
            f"election_timeout_max ({self.election_timeout_max} s)",
        )
        require(
            0 < self.backoff_base <= self.backoff_cap,
            "backoff_base must be above 0 and not exceed backoff_cap",
        )
        require(0 <= self.max_clock_drift < 0.5, "max_clock_drift must be from 0 to below 0.5")
        require(0 <= self.thrifty_delay <= 1, "thrifty_delay must be from 0 to 1 (seconds)")
        for name in (
            "window", "batch_bytes", "max_pending_bytes", "retransmit_interval", "retain_slots",
            "retain_bytes", "snapshot_bytes", "snapshot_slots", "transfer_bytes",
        ):  # fmt: skip
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
            require(getattr(self, name) <= MOST, f"{name} must be at most {MOST}")
        for name in ("election_timeout_max", "backoff_cap", "retransmit_interval"):
            require(getattr(self, name) <= LONGEST, f"{name} must be at most {LONGEST} (seconds)")
        for name in ("batch_bytes", "transfer_bytes"):
            require(
                getattr(self, name) <= MAX_TRANSFER_BYTES,
                f"{name} must be at most {MAX_TRANSFER_BYTES}, got {getattr(self, name)}: more "
                "would not go into one frame",
            )
        wrong = check_values(self.agreed_given, {})
        require(not wrong, wrong)

    @property
    def p1a_interval(self) -> float:
        """A candidate asks again so often, seconds: to be heard before others try to lead."""
        return min(self.retransmit_interval, self.election_timeout_min / 3)

    @property
    def agreed_given(self) -> dict[str, Number]:
        """Those given of the settings that the cluster agrees on, by name."""
        found = {name: getattr(self, name, None) for name in NAMES}
        return {name: value for name, value in found.items() if value is not None}


def of_each_server(names: Iterable[str]) -> str:
    """A sentence on the first of these that is not agreed on, but each server's own; "" if none."""
    for name in names:
        if name in Settings.__struct_fields__ and name not in NAMES:
            return (
                f"{name} is each server's own and not agreed on: set it in the cluster file, or by "
                "a flag, and start that server again"
            )
    return ""


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in msgspec.structs.fields(kind))


def _wrong_field(struct: msgspec.Struct) -> str:
    """One sentence on the first field with a value of another type than it has; "" if all fit."""
    for name, kind in _fields(type(struct)):
        value = getattr(struct, name)
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return f"{name} = {value!r}: must be {_in_words(kind)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} = {value!r}: must be a finite number"
    return ""


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of whole numbers"
    if get_origin(kind) is dict:
        return "a dict of texts by whole number"
    if isinstance(kind, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    return _WORDS.get(kind, "None" if kind is type(None) else str(kind))
