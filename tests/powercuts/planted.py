"""Bugs of the storage engine that only a power cut shows, to be planted in a recorded process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paxon.actors.disk import data_directory, snapshot_files
from paxon.actors.disk.snapshot_files import SnapshotFiles
from paxon.actors.disk.sqlite_storage import SqliteStorage

__all__ = ["PLANTED", "StorageBug", "by_name"]


@dataclass(frozen=True)
class StorageBug:
    """A mutation with a name; `plant` cannot be undone."""

    name: str
    description: str
    plant: Callable[[], None]


PLANTED: list[StorageBug] = []


def by_name(name: str) -> StorageBug:
    """Raises `KeyError`, with the names that there are."""
    for bug in PLANTED:
        if bug.name == name:
            return bug
    raise KeyError(f"no planted bug {name!r}; there are {', '.join(b.name for b in PLANTED)}")


def bug(description: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add a function that plants a bug, named by the function."""

    def add(plant: Callable[[], None]) -> Callable[[], None]:
        PLANTED.append(StorageBug(plant.__name__.replace("_", " "), description, plant))
        return plant

    return add


class _WithoutSyncs:
    """The module `os`, but for syncs of files: those do nothing while `skipping`."""

    skipping = False

    def __getattr__(self, name: str) -> Any:
        if self.skipping and name in ("fsync", "fdatasync"):
            return lambda _descriptor: None
        return getattr(os, name)


def _without_syncs(owner: type, *methods: str) -> None:
    """Leave out the syncs of files in these methods."""
    proxy = _WithoutSyncs()
    vars(snapshot_files)["os"] = proxy
    for method in methods:
        _surround(owner, method, proxy)


def _surround(owner: type, method: str, proxy: _WithoutSyncs) -> None:
    original = getattr(owner, method)

    def without(*arguments: Any, **options: Any) -> Any:
        proxy.skipping = True
        try:
            return original(*arguments, **options)
        finally:
            proxy.skipping = False

    setattr(owner, method, without)


@bug("a commit is not synced, only a checkpoint is (SQLite's `synchronous=NORMAL`)")
def synchronous_is_normal() -> None:
    original = SqliteStorage._connect

    def connect(self: SqliteStorage, path: Any) -> Any:
        database = original(self, path)
        database.execute("PRAGMA synchronous=NORMAL")
        return database

    SqliteStorage._connect = connect  # type: ignore[method-assign]


@bug("a snapshot gets its name before its contents are synced")
def a_snapshot_is_not_synced() -> None:
    _without_syncs(SnapshotFiles, "_write")


@bug("the directory is not synced after a snapshot got its name")
def a_snapshots_name_is_not_synced() -> None:
    original = SnapshotFiles._write

    def write(*arguments: Any) -> Any:
        vars(snapshot_files)["sync_directory"] = lambda _path: None
        try:
            return original(*arguments)
        finally:
            vars(snapshot_files)["sync_directory"] = data_directory.sync_directory

    SnapshotFiles._write = write  # type: ignore[method-assign,assignment]


@bug("a snapshot that came from another server is taken over before it is synced")
def a_received_snapshot_is_not_synced() -> None:
    _without_syncs(SnapshotFiles, "receive", "finish")


@bug("the directory is not synced after a received snapshot got its name")
def a_received_snapshots_name_is_not_synced() -> None:
    original = SnapshotFiles.finish

    def finish(self: SnapshotFiles, info: Any) -> bytes | None:
        vars(snapshot_files)["sync_directory"] = lambda _path: None
        try:
            return original(self, info)
        finally:
            vars(snapshot_files)["sync_directory"] = data_directory.sync_directory

    SnapshotFiles.finish = finish  # type: ignore[method-assign]


@bug("the data directory is made, and the names on the way to it are not synced")
def the_directorys_name_is_not_synced() -> None:
    data_directory.make_directory = lambda path, mode=0o777: path.mkdir(mode, True, True)


@bug("the witness counts a commit before it is synced")
def the_witness_runs_ahead() -> None:
    original = SqliteStorage._transact

    def transact(self: SqliteStorage, *arguments: Any, **options: Any) -> None:
        self._directory.witness(self.count + 1)
        original(self, *arguments, **options)

    SqliteStorage._transact = transact  # type: ignore[method-assign]


@bug("old snapshots are deleted before the commit that makes the new one count")
def the_old_snapshot_goes_first() -> None:
    original = SnapshotFiles.taken

    def taken(self: SnapshotFiles) -> Any:
        info = original(self)
        if info is not None:
            for path in self._directory.glob("snapshot-*.paxon"):
                if path != self.path(info.slot):
                    path.unlink()
        return info

    SnapshotFiles.taken = taken  # type: ignore[method-assign]
