"""A new cluster made of what is left of another: of one server's directory, or of a backup.

It has an identity of its own, and its first slot is a snapshot. Nothing that a client remembers of
the old one may mean something else in the new one: revisions go on far above, sessions are gone,
and leases have the time that they had left (docs/running/recovery.md).
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from paxon.actors.disk.data_directory import (
    DATABASE_NAME,
    in_words,
    make_directory,
    owner_of,
    sync_directory,
)
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.disk.storage import Recovered, SnapshotInfo, Storage, StorageError
from paxon.actors.execution.agreed import Agreed, decode_agreed, encode_agreed
from paxon.actors.execution.application import Application
from paxon.actors.messages import NO_OP, Made
from paxon.actors.records.configuration import Configuration, is_config
from paxon.kvstore.cluster.cluster_file import ServerPlan
from paxon.kvstore.cluster.local_files import held_alone
from paxon.kvstore.cluster.node import load_machine
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.store.image import decode_state, encode_state
from paxon.kvstore.store.operations import Compact, encode_operations
from paxon.kvstore.store.state import State
from paxon.kvstore.store.store import KVStore

__all__ = [
    "REVISIONS_AHEAD",
    "RecoveryError",
    "Recovery",
    "check_free",
    "found_cluster",
    "found_on",
    "recover",
    "restart_revisions",
    "snapshot_of",
]

REVISIONS_AHEAD = 1_000_000_000
"""A new cluster's store goes on so far above, at least: a client that saw more than it holds is
told that this is compacted, and takes no new revision for one that it knows. And at least at the
microseconds since 1970, for stores make fewer revisions: so two clusters that were made of the same
one, one after the other, have none in common either."""
_PIECE = 1 << 20
_ROOM_BESIDE = 2 << 20
"""Bytes that a directory takes, and leaves to the log at first, besides its snapshot."""


class RecoveryError(PaxonError):
    """A directory cannot be recovered; the text is one sentence, and nothing was changed."""


class Recovery(msgspec.Struct, frozen=True):
    """The state that was taken, and what is not known."""

    cluster: str
    server: int
    chosen_to: int
    """All slots up to here were known to be chosen."""
    taken_to: int
    """Those above it, up to here, were accepted here, and are taken for chosen."""
    gaps: list[int]
    """Slots among them of which nothing was here: they are taken for empty."""
    skipped: list[int]
    keys: int | None = None
    """Of the store; None if another state machine is replicated."""
    revision: int | None = None
    """At which the store goes on."""
    moved: bool = False
    """It was copied or put back since its server wrote it, and may be older than what was lost."""

    def sentences(self) -> list[str]:
        """All of it for people, what may be lost included."""
        told = [
            f"taken: all up to slot {self.taken_to:,}"
            + (f", and the store goes on at revision {self.revision:,}" if self.revision else "")
            + (f" with {self.keys:,} key{'s' * (self.keys != 1)}" if self.keys is not None else "")
        ]
        if self.taken_to > self.chosen_to:
            told.append(
                f"not certain: what is above slot {self.chosen_to:,} was accepted here; whether "
                "it was chosen is not known, and it counts now"
            )
        if self.moved:
            told.append(
                "not certain: its database is another file than its server wrote, so it may be an "
                "old copy, which lacks what was acknowledged since"
            )
        for slots, why in ((self.gaps, "nothing of them was here"), (self.skipped, "as told")):
            if slots:
                many = "s" * (len(slots) > 1)
                told.append(f"empty: slot{many} {', '.join(map(str, slots))} ({why})")
        told.append(
            f"lost: what the others acknowledged after slot {self.chosen_to:,} and this server "
            "never heard of; all sessions and watches, so start clients anew; leases have the time "
            "that they had left"
        )
        return told


# --- what both have in common --------------------------------------------------------------------


def restart_revisions(machine: KVStore, state: State) -> int:
    """Have a store hold this state's keys and leases, no history; its revision, far above."""
    fresh = State()
    fresh.data.update(state.data)
    fresh.leases = state.leases
    fresh.revision = max(state.revision + REVISIONS_AHEAD, time.time_ns() // 1000)
    fresh.history.now = state.history.now
    machine.restore(encode_state(fresh))
    machine.apply(encode_operations([Compact(fresh.revision)]))
    return fresh.revision


def check_free(target: Path) -> None:
    """Raise `RecoveryError` for a directory that holds anything, or would go with another."""
    for parent in Path(os.path.realpath(target)).parents:
        if (parent / DATABASE_NAME).exists():
            raise RecoveryError(
                f"{target} is inside of the data directory {parent}, which may well be removed: "
                "give one outside of it; nothing was changed"
            )
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise RecoveryError(
            f"{target} is there already, and not empty: give a new directory; nothing was changed"
        )


def found_cluster(
    targets: Mapping[int, Path],
    name: str,
    image: Callable[[int], bytes],
    agreed: Agreed,
) -> None:
    """Make these servers' directories, of a cluster just made, whose first slot is a snapshot.

    `image` makes it, given the new identity. Either all are there in the end, or none. Raises
    `RecoveryError`.
    """
    made: list[Path] = []
    placed: list[Path] = []
    held = ExitStack()
    try:
        for target in targets.values():
            make_directory(target.parent)
        for parent in {os.path.realpath(target.parent) for target in targets.values()}:
            held.enter_context(held_alone(Path(parent)))  # another may be making some here, too
        for target in targets.values():
            check_free(target)
            made.append(target.with_name(f".{target.name}.restoring"))
            if made[-1].exists():
                shutil.rmtree(made[-1])
        _make(dict(zip(targets, made, strict=True)), name, image, agreed)
        for server, fresh in zip(targets, made, strict=True):
            if targets[server].exists():
                targets[server].rmdir()  # (it is empty)
            fresh.rename(targets[server])
            placed.append(targets[server])
            sync_directory(fresh.parent)
        placed.clear()  # all are there: they stay
    except (OSError, StorageError) as error:
        text = str(error)
        if isinstance(error, OSError):
            text = f"{error.filename}: " * bool(error.filename) + in_words(error)
        raise RecoveryError(f"the new directories cannot be made: {text}") from error
    finally:
        for directory in made + placed:
            shutil.rmtree(directory, ignore_errors=True)
        held.close()


def snapshot_of(application: Application, agreed: Agreed) -> Callable[[int], bytes]:
    """The image of a first snapshot with this state, given the new cluster's identity.

    The log's time goes on from that of `application`.
    """
    machine = application.machine

    def image(identity: int) -> bytes:
        fresh = Application(machine, agreed, identity)
        fresh.sessions.time = application.time
        fresh.executed = 1  # (a snapshot is of a slot from 1)
        fresh.chain.begin(agreed.digest_version, 1)
        return b"".join(fresh.image())

    return image


def _make(
    directories: dict[int, Path], name: str, image: Callable[[int], bytes], agreed: Agreed
) -> None:
    identity = 1 + secrets.randbits(62) % ((1 << 62) - 1)

    def fitting(identity: int) -> bytes:
        whole = image(identity)
        _check_room([*directories.values()], len(whole) + _ROOM_BESIDE)
        return whole

    with ExitStack() as stack:
        storages = {
            server: stack.enter_context(closing(SqliteStorage(path, name, server, fork=False)))
            for server, path in directories.items()
        }
        found_on(storages, name, fitting, agreed, identity)


def _check_room(directories: list[Path], each: int) -> None:
    """Raise `RecoveryError` if so many bytes do not fit into each of these."""
    devices = [path.stat().st_dev for path in directories]
    for path, device in zip(directories, devices, strict=True):
        wanted = each * devices.count(device)
        if shutil.disk_usage(path).free < wanted:
            raise RecoveryError(
                f"the new directories take {wanted >> 20:,} MiB, and the disk at {path.parent} has "
                "less: free some space, or choose another directory; nothing was made"
            )


def found_on(
    storages: Mapping[int, Storage],
    name: str,
    image: Callable[[int], bytes],
    agreed: Agreed,
    identity: int,
) -> Made:
    """Make a cluster of these servers' empty storages; see `found_cluster`."""
    whole = image(identity)
    info = SnapshotInfo(1, len(whole), zlib.crc32(whole))
    members = tuple((server, storages[server].incarnation) for server in sorted(storages))
    made = Made(identity, name, members, encode_agreed(agreed))
    for storage in storages.values():
        storage.load()
        storage.save_made(made, in_force=True)
        if storage.receive_snapshot(info, 0, whole) < info.size:
            raise StorageError("there is no room for the snapshot")
        storage.adopt_snapshot(info)
        storage.commit()
        storage.maintain(tidy=False)
    return made


# --- recovering ----------------------------------------------------------------------------------


def recover(
    plan: ServerPlan, target: Path, *, skip: Collection[int] = (), force: bool = False
) -> Recovery:
    """Make, in `target`, the directory of a cluster of one from what `plan`'s server holds.

    All that it accepted is taken for chosen, and the slots in `skip` for empty. What is read stays
    as it is. Raises `RecoveryError`.
    """
    check_free(target)
    directory = Path(plan.entry.directory)
    with _opened(plan, force=force) as storage:
        try:
            found = storage.load()
        except StorageError as error:
            raise RecoveryError(str(error)) from error
        if found.made is None or not found.in_force:
            raise RecoveryError(f"{directory} is of no cluster that was ever in force: start anew")
        if not force and (why := _lacks(found, plan.entry.id, storage.incarnation)):
            raise RecoveryError(
                f"{directory} is not recovered: {why}; recover the directory of one of them, or "
                "take this one with --force, which loses what they acknowledged"
            )
        covered = 0 if found.snapshot is None else found.snapshot.slot
        if 0 < min(skip, default=0) <= covered:
            raise RecoveryError(
                f"slot {min(skip)} cannot be skipped: the snapshot at slot {covered} holds what it "
                "did; skip those alone that are named when a server stops"
            )
        moved = storage.moved
        application, gaps = _replay(plan, storage, found, frozenset(skip))
    last = application.executed
    unknown = sorted(slot for slot in skip if not 0 < slot <= last)
    if unknown:
        raise RecoveryError(f"there is no slot {unknown[0]} to skip: the last one here is {last}")
    machine, keys, revision = application.machine, None, None
    if isinstance(machine, KVStore):
        state = decode_state(machine.snapshot())
        keys, revision = len(state.data), restart_revisions(machine, state)
    agreed = msgspec.structs.replace(application.agreed, changed_at=0)
    name, server = plan.settings.cluster, plan.entry.id
    image = snapshot_of(application, agreed)
    found_cluster({server: target}, name, image, agreed)
    return Recovery(
        name,
        server,
        min(found.chosen_to, last),
        last,
        gaps,
        sorted(set(skip)),
        keys,
        revision,
        moved,
    )


@contextmanager
def _opened(plan: ServerPlan, *, force: bool) -> Iterator[SqliteStorage]:
    """The storage in a server's directory; by force in another's."""
    directory = Path(plan.entry.directory)
    name, server = plan.settings.cluster, plan.entry.id
    if not (directory / DATABASE_NAME).exists():
        raise RecoveryError(
            f"{directory} holds no {DATABASE_NAME}: give the data directory that is left"
        )
    if force and (owner := owner_of(directory)).server:
        name, server = owner.cluster, owner.server
    try:
        storage = SqliteStorage(directory, name, server, fork=False, condemned_too=force)
    except StorageError as error:
        raise RecoveryError(str(error)) from error
    with closing(storage):
        yield storage


def _lacks(found: Recovered, server: int, incarnation: int) -> str:
    """Why a directory is known to lack what others may have decided; "" if it is not."""
    assert found.made is not None
    now = found.configuration or Configuration.of(found.made)
    member = now.find(server)
    if member is None or member.incarnation != incarnation:
        return f"it is no member any more since slot {now.sealed_at}, and others went on without it"
    newest = max((held.slot for held in found.accepted), default=found.chosen_to)
    if now.epoch and max(newest, found.chosen_to) <= now.sealed_at:
        members = ", ".join(map(str, now.servers))
        return (
            f"its epoch was sealed in slot {now.sealed_at}, and nothing of the next one is "
            f"here: its members ({members}) may have gone on without this one"
        )
    for held in found.accepted:
        if held.slot > found.chosen_to and is_config(held.value):
            return (
                f"it accepted a change of members in slot {held.slot} and does not know whether "
                "that was decided: if it was, others may have gone on without it"
            )
    return ""


def _replay(
    plan: ServerPlan, storage: SqliteStorage, found: Recovered, skip: frozenset[int]
) -> tuple[Application, list[int]]:
    """All that a server had accepted, executed; and the slots of which nothing was there."""
    assert found.made is not None
    machine = load_machine(plan.machine)
    values = {held.slot: held.value for held in found.accepted}
    gaps: list[int] = []
    slot = 0
    try:
        agreed = decode_agreed(found.made.agreed, machine.limits)
        application = Application(machine, agreed, found.made.identity)
        if found.snapshot is not None:
            application.restore(_image(storage, found.snapshot))
        for slot in range(application.executed + 1, max(values, default=0) + 1):
            value = values.get(slot)
            if value is None and slot not in skip:
                gaps.append(slot)
            application.execute(slot, NO_OP if value is None or slot in skip else value)
    except Exception as error:  # whatever stops a server at a slot: that is what `skip` is for
        text = str(error) or type(error).__name__
        way_out = f"; --skip {slot} takes that slot for empty" if slot else ""
        raise RecoveryError(f"{plan.entry.directory}: {text}{way_out}") from error
    return application, gaps


def _image(storage: SqliteStorage, info: SnapshotInfo) -> bytes:
    offsets = range(0, info.size, _PIECE)
    return b"".join(storage.read_snapshot(info.slot, offset, _PIECE) for offset in offsets)
