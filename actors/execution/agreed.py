"""What execution depends on, agreed by all servers (rule 15; docs/running/settings.md).

A server's `Settings` are its own; these are the cluster's. The first values are those with which
the cluster was made. A command in the log changes them, from the slot after it on, so they are a
function of the executed prefix like the state itself; snapshots carry them. What a file or a flag
says later changes nothing and is answered by a warning. Nothing new enters the log before all
servers know it: one that cannot execute an entry has to stop.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from paxon.actors.ballot import ServerId, in_list
from paxon.actors.disk.storage import StorageError

__all__ = [
    "Agreed", "Change", "Features", "Limit", "Limits", "Number", "UnknownSetting", "BEFORE",
    "KNOWS", "NAMES", "OWN", "agreed_values", "apply_change", "check_rising", "check_values",
    "decode_agreed", "differences", "encode_agreed",
    "encode_in_short", "first_agreed", "limits_checksum", "plain", "range_error",
]  # fmt: skip

Number: TypeAlias = int | float

KNOWS = 1
"""The kinds of entries and the settings that this release knows, as a number that rises with each
new one. Peers tell it (`HeartbeatReply`, `PreVoteReply`), and nothing new enters the log before all
voters know it."""


class UnknownSetting(StorageError):
    """A value was agreed that this release does not know; the text says which and what to do."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a state machine's own that its execution depends on (`StateMachine.limits`)."""

    default: int
    """What a new cluster begins with."""
    least: int
    most: int
    """Commands, replies and snapshots within it must fit into a frame (`MAX_FRAME_BYTES`)."""
    before: int
    """What held before there was this limit: in a cluster that was made without it. Never changed
    again, whatever becomes of `default`."""
    rises: bool = False
    """It is never set to less than what is in force."""


Limits: TypeAlias = Mapping[str, Limit]


class Agreed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in force after some slot. There are no defaults here: see `OWN`."""

    session_ttl: float
    """A session idle for so many seconds of the log's time expires."""
    max_sessions: int
    """Beyond this the longest idle session expires first."""
    max_command_bytes: int
    """Longer commands are refused before they enter the log."""
    max_outstanding: int
    """Commands that a session may have unacknowledged."""
    session_min_idle: float
    """Only a session idle for so many seconds makes room for another when there are too many."""
    max_kept_each: int
    """Bytes of unacknowledged replies kept for one session; beyond it, it executes nothing."""
    max_kept: int
    """The same for all sessions together; beyond it only those go on that have few."""
    digest_version: int
    """By which rule servers hash what they execute, to compare it."""
    machine: dict[str, int]
    """The state machine's own limits, by name (`StateMachine.limits`). Never changed in place."""
    changed_at: int
    """The slot of the command that changed them last: in force from the one after; 0: as made."""


OWN: dict[str, tuple[Number, Number, Number, Number]] = {
    "session_ttl": (3600.0, 0.1, 3.2e8, 3600.0),
    "max_sessions": (20_000, 1, 1_000_000, 20_000),
    "max_command_bytes": (16 << 20, 2 << 20, 16 << 20, 16 << 20),
    "max_outstanding": (1024, 1, 65_536, 1024),
    "session_min_idle": (10.0, 0.0, 3.2e8, 10.0),
    "max_kept_each": (16 << 20, 1, 1 << 40, 16 << 20),
    "max_kept": (256 << 20, 1, 1 << 40, 256 << 20),
    "digest_version": (1, 1, 1, 1),
}
"""Paxon's own settings: default, least, most and what held before, as in `Limit`. The first may
change with a release, the last is part of the format and never does. What clients pack together by
themselves is below the least of a command, and the most fits into a frame (`MAX_FRAME_BYTES`)."""
BEFORE = {**{name: before for name, (_, _, _, before) in OWN.items()}, "changed_at": 0}
"""What clusters and snapshots have that lack a setting."""

NAMES = tuple(OWN)
"""The settings that are not a state machine's own."""

_FIELDS = frozenset(Agreed.__struct_fields__)


def first_agreed(given: Mapping[str, Number], limits: Limits) -> Agreed:
    """The settings that a new cluster begins with: the values given, defaults for the rest.

    `given` holds names of `NAMES` and of `limits`, checked (`check_values`).
    """
    machine = {name: int(given.get(name, limit.default)) for name, limit in limits.items()}
    own = {name: given.get(name, default) for name, (default, *_) in OWN.items()}
    return msgspec.convert({**own, "machine": machine, "changed_at": 0}, Agreed)


def encode_agreed(agreed: Agreed) -> bytes:
    """With the name of every value, so that a later release can tell which are missing."""
    return msgspec.msgpack.encode(agreed)


def encode_in_short(agreed: Agreed, limits: Limits) -> bytes:
    """The same without what `decode_agreed` adds.

    So it is alike, and readable, in every release that knows what was ever set to something else.
    """
    whole: dict[str, Any] = msgspec.structs.asdict(agreed)
    short = {name: value for name, value in whole.items() if value != BEFORE.get(name)}
    short["machine"] = {
        name: value for name, value in agreed.machine.items() if value != limits[name].before
    }
    return msgspec.msgpack.encode(short)


def decode_agreed(data: bytes, limits: Limits) -> Agreed:
    """Read what `encode_agreed` wrote, in this release or an earlier one.

    `limits` are those that the state machine knows. Raises `UnknownSetting`.
    """
    found: dict[str, Any] = msgspec.msgpack.decode(data, type=dict[str, Any])
    machine = found.get("machine", {})
    _all_known((*(name for name in found if name not in _FIELDS), *machine), limits)
    before = {name: limit.before for name, limit in limits.items()}
    return msgspec.convert({**BEFORE, **found, "machine": {**before, **machine}}, Agreed)


def _all_known(names: Iterable[str], limits: Limits) -> None:
    for name in names:
        if name not in OWN and name not in limits:
            raise UnknownSetting(
                f"the cluster has agreed on a setting '{name}' that neither this release nor its "
                "state machine knows: run what the other servers run"
            )


def agreed_values(agreed: Agreed) -> dict[str, Number]:
    """All settings in one mapping, by name, the state machine's own among them."""
    return {name: getattr(agreed, name) for name in NAMES} | agreed.machine


def range_error(name: str, value: object, limits: Limits) -> str:
    """Why `name` cannot be set to `value`, in one sentence; "" if it can."""
    if name in OWN:
        default, least, most, _ = OWN[name]
        whole = not isinstance(default, float)
    elif name in limits:
        least, most, whole = limits[name].least, limits[name].most, True
    else:
        return f"there is no agreed setting '{name}'; there are {', '.join((*NAMES, *limits))}"
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number:
        return f"{name} = {value!r}: must be {'a whole number' if whole else 'a number'}"
    if name in limits and limits[name].rises and value > most:  # type: ignore[operator]
        return (
            f"{name} = {plain(value)}: the leader's state machine knows none above {plain(most)}: "
            "start all servers with the new code first"
        )
    if not least <= value <= most:  # type: ignore[operator]
        return f"{name} = {plain(value)}: must be from {plain(least)} to {plain(most)}"
    return ""


def check_values(new: Mapping[str, object], limits: Limits) -> str:
    """A sentence on the first of these values that is wrong; "" if none is."""
    return next(filter(None, (range_error(name, new[name], limits) for name in new)), "")


def check_rising(agreed: Agreed, new: Mapping[str, Number], limits: Limits) -> str:
    """Which of these values may not fall and would, in one sentence; "" if none."""
    for name, value in new.items():
        if name in limits and limits[name].rises and value < agreed.machine[name]:
            return f"{name} is {agreed.machine[name]} and is never set to less"
    return ""


def plain(number: object) -> str:
    """A number as people write it."""
    return f"{number:.10g}" if isinstance(number, float) else str(number)


def differences(agreed: Agreed, given: Mapping[str, Number]) -> list[str]:
    """A phrase for each given value that differs from the agreed one."""
    known = agreed_values(agreed)
    return [
        f"{name} is {plain(known[name])} by agreement and {plain(value)} here"
        for name, value in given.items()
        if name in known and known[name] != value
    ]


def limits_checksum(limits: Limits) -> int:
    """32 bits over the limits that a state machine knows: peers compare it before one is set."""
    known = sorted((name, limit.least, limit.most, limit.before) for name, limit in limits.items())
    return zlib.crc32(repr(known).encode())


# --- changing them -------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The content of a settings entry of the log (msgpack). It was checked before it got there."""

    changed_at: int
    """The change counts only if the settings were changed last in this slot: a copy that comes
    late undoes nothing that was decided since."""
    values: dict[str, Number]
    """Empty: nothing is changed, and the answer tells what is in force."""


def apply_change(agreed: Agreed, change: Change, slot: int, limits: Limits) -> Agreed | None:
    """The settings after the change in `slot`; None if it was made for other settings.

    A change to what is agreed already is no change: one who asks again because the answer got lost
    is told the slot in which it was made. Ranges are no concern of execution, which must come to
    the same on servers of two releases. Raises `UnknownSetting`.
    """
    _all_known(change.values, limits)
    known = agreed_values(agreed)
    if all(known[name] == value for name, value in change.values.items()):
        return agreed
    if change.changed_at != agreed.changed_at:
        return None
    whole: dict[str, Any] = msgspec.structs.asdict(agreed)
    whole["machine"] = dict(agreed.machine)
    for name, value in change.values.items():
        (whole if name in OWN else whole["machine"])[name] = value
    return msgspec.convert({**whole, "changed_at": slot}, Agreed)


class Features:
    """Which kinds of entries and settings this server knows, and the others, as they said last."""

    def __init__(self, others: Sequence[ServerId], limits: Limits) -> None:
        self._others = others
        self._names = limits
        self.knows = KNOWS
        self.limits = limits_checksum(limits)
        """Over the limits that this server's state machine knows."""
        self._heard: dict[ServerId, tuple[int, int]] = {}

    def heard(self, server: ServerId, knows: int, limits: int) -> None:
        """A server says what it knows; it may have been replaced by another release meanwhile."""
        self._heard[server] = (knows, limits)

    def obstacle(self, names: Collection[str]) -> str:
        """Why a change of these settings has to stay out of the log.

        One sentence that names the servers; "" if all know them.
        """
        if not names:
            return ""
        machine = not self._names.keys().isdisjoint(names)
        silent = [server for server in self._others if server not in self._heard]
        heard = [s for s in self._others if s in self._heard]
        old = [s for s in heard if self._heard[s][0] < self.knows]
        other = [s for s in heard if machine and self._heard[s][1] != self.limits]
        for servers, fault in (
            (silent, "not heard of since this leader started: start all servers first"),
            (old, "running a release that does not know this: run this release everywhere first"),
            (other, "running a state machine with other limits: run the same one everywhere first"),
        ):
            if servers:
                return f"{in_list(servers)} {'is' if len(servers) == 1 else 'are'} {fault}"
        return ""
