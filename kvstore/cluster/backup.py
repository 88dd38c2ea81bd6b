"""Backups of the store: saved while all serve, verified, restored (docs/running/backups.md).

A backup is what the store held after one revision: every key with all that belongs to it, and the
leases. It is read as any client reads, so it needs nothing of a server's disk, and cannot be an
old copy of one. Restoring makes a *new* cluster of it (paxon.kvstore.cluster.recovery).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shlex
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from paxon.actors.disk.data_directory import in_words, sync_directory
from paxon.actors.execution.agreed import NAMES, Agreed, first_agreed
from paxon.actors.execution.application import Application
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.links import Secure
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.recovery import (
    check_free,
    found_cluster,
    restart_revisions,
    snapshot_of,
)
from paxon.kvstore.errors import Compacted, PaxonError
from paxon.kvstore.store.items import Item, Row
from paxon.kvstore.store.leases import Lease
from paxon.kvstore.store.state import State
from paxon.kvstore.store.store import KVStore

__all__ = ["BackupError", "Summary", "restore", "save", "saver", "verify"]

T = TypeVar("T")

MAGIC = b"paxon backup\n"
FORMAT = 1
PAGE = 200
"""Keys that are read, and written, together."""
_ETCDS_BLOCK = 512
"""etcd's clients take a snapshot that is so many bytes, or a multiple, and its SHA-256: a backup
that came that way (docs/etcd.md) has this after its end."""
_SAVING_SECONDS = 60.0
"""For each of a save's requests, where nobody says otherwise."""
_ATTEMPTS = 3
"""How often a save begins anew because its revision was compacted away under it."""
_FRAME = struct.Struct("!II")
_MOST_FRAME_BYTES = 1 << 31


class BackupError(PaxonError):
    """A backup cannot be made or used; the text is one sentence."""


class _Struct(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Head(_Struct, frozen=True, tag=1):
    """Comes first."""

    format: int
    cluster: str
    """Its name."""
    revision: int
    saved_at: float
    """Seconds since 1970, by the clock of whoever saved it."""
    agreed: dict[str, int | float]
    """The cluster's agreed settings."""


class Page(_Struct, frozen=True, tag=2):
    """Some keys, in order."""

    rows: list[Row]


class Leased(_Struct, frozen=True, tag=3):
    """All leases: id, whole time and time left, milliseconds."""

    leases: list[tuple[int, int, int]]


class End(_Struct, frozen=True, tag=4):
    """Comes last: without it the file was cut."""

    keys: int
    digest: bytes
    """SHA-256 of all before it."""


class Summary(msgspec.Struct, frozen=True):
    """The contents of a backup."""

    cluster: str
    revision: int
    saved_at: float
    keys: int
    leases: int
    bytes: int
    """Of the file."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Head | Page | Leased | End)


# --- saving --------------------------------------------------------------------------------------


def save(kv: Client, path: Path, name: str) -> Summary:
    """Write a backup of the store that `kv` reaches; `name` is its cluster's. Raises `BackupError`.

    The file gets its name once all of it is on disk; one that is there already stays as it is.
    """
    if str(path) == "-":
        raise BackupError("a backup is read again to check it: name a file, not -")
    there = f"{path} is there already: give another name, or remove it"
    if os.path.lexists(path):
        raise BackupError(there)
    # (Not by the process's number, which a container's may have had when it was killed.)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Whoever can read it reads all keys.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    _write(kv, file, name)
                    break
                except Compacted:
                    if attempt == _ATTEMPTS:
                        raise BackupError(
                            "the store's history is compacted faster than all of it can be read: "
                            "save when less is written"
                        ) from None
                    file.seek(0)
                    file.truncate()
            file.flush()
            os.fsync(file.fileno())
        found = verify(temporary)
        _name(temporary, path)
        sync_directory(path.parent)
        return found
    except FileExistsError:
        raise BackupError(there) from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            lacks = f"there is no directory {path.parent}: make it first, or give another place"
            raise BackupError(f"{path}: {lacks}") from None
        raise BackupError(f"{path}: {in_words(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _name(temporary: Path, path: Path) -> None:
    """Give the file its name. Raises `FileExistsError`."""
    try:
        os.link(temporary, path)  # (not by rename, which would replace what came meanwhile)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        path.open("xb").close()  # a file system without links, as on a stick: the name is ours now
        temporary.replace(path)


def saver(servers: Sequence[str], secure: Secure | None = None) -> Callable[[Path, str], Summary]:
    """A function that saves these servers' store, with a client of its own, for etcd's clients."""

    def save_with_client(path: Path, name: str) -> Summary:
        with Client(servers, secure=secure, timeout=_SAVING_SECONDS) as kv:
            found = save(kv, path, name)
        with path.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256")
            padding = bytes(-file.tell() % _ETCDS_BLOCK)
            digest.update(padding)
            file.write(padding + digest.digest())
        return found

    return save_with_client


def _write(kv: Client, file: BinaryIO, name: str) -> None:
    digest = hashlib.sha256(MAGIC)
    file.write(MAGIC)

    def put(part: Head | Page | Leased | End) -> None:
        body = _encoder.encode(part)
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        file.write(frame)
        digest.update(frame)

    agreed = dict(kv.settings().values)
    first = kv.range(range=(None, None), limit=PAGE)
    revision, keys = first.revision, 0
    leased: set[int] = set()
    put(Head(FORMAT, name, revision, time.time(), agreed))
    page = first
    while True:
        rows: list[Row] = [
            (_raw(e.key), e.value, e.created, e.modified, e.version, e.lease) for e in page
        ]
        put(Page(rows))
        keys += len(rows)
        leased.update(row[5] for row in rows if row[5])
        if not page.more:
            break
        after = rows[-1][0] + b"\0"
        page = kv.range(range=(after, None), limit=PAGE, revision=revision)
    leases = []
    for lease in sorted({*kv.leases(), *leased}):
        info = kv.lease_info(lease)
        if info is not None:
            leases.append((lease, round(info.ttl * 1000), round(info.left * 1000)))
        elif lease in leased:  # it has ended since that revision: its keys go at once
            leases.append((lease, 1000, 0))
    put(Leased(leases))
    put(End(keys, digest.digest()))


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


# --- reading -------------------------------------------------------------------------------------


def verify(path: Path) -> Summary:
    """Read all of a backup, and check it. Raises `BackupError` if anything in it is wrong."""
    head: Head | None = None
    leases = keys = 0
    for part in _parts(path):
        if isinstance(part, Head):
            head = part
        elif isinstance(part, Page):
            keys += len(part.rows)
        elif isinstance(part, Leased):
            leases = len(part.leases)
    assert head is not None
    return Summary(head.cluster, head.revision, head.saved_at, keys, leases, path.stat().st_size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what_to_do = {
            errno.ENOENT: "there is no such file: give the name of a backup",
            errno.ENOTDIR: "there is no such file: give the name of a backup",
            errno.EISDIR: "it is a directory: give the name of a backup in it",
            errno.EACCES: "permission is denied: give this user the right to read it",
        }
        words = what_to_do.get(error.errno or 0, error.strerror)
        raise BackupError(f"{path}: {words}") from error


def _parts(path: Path) -> Iterator[Head | Page | Leased | End]:
    """The parts of a backup, in order; the last one has been compared with all before it."""

    def damaged(what: str) -> BackupError:
        return BackupError(f"{path} is damaged ({what}): use another backup")

    with _reading(path), path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BackupError(f"{path} is no backup of Paxon: it does not begin as one")
        digest = hashlib.sha256(MAGIC)
        keys, expected = 0, Head
        while True:
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                raise BackupError(f"{path} was cut: its end is missing; use another backup")
            size, checksum = _FRAME.unpack(head)
            if size > _MOST_FRAME_BYTES:
                raise damaged("a part of it has an impossible size")
            body = file.read(size)
            if len(body) < size:
                raise BackupError(f"{path} was cut: its end is missing; use another backup")
            if zlib.crc32(body) != checksum:
                raise damaged("a checksum is wrong")
            try:
                part: Any = _decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise damaged(str(error)) from None
            if isinstance(part, Head) != (expected is Head):
                raise damaged("its parts are in disorder")
            if isinstance(part, Head):
                expected = Page  # type: ignore[assignment]
                if part.format != FORMAT:
                    raise BackupError(
                        f"{path} has format {part.format}, and this Paxon reads {FORMAT}: use the "
                        "release that wrote it"
                    )
            if isinstance(part, End):
                if part.digest != digest.digest() or part.keys != keys:
                    raise damaged("its end does not fit what is before")
                digest.update(head + body)
                padding = bytes(-file.tell() % _ETCDS_BLOCK)
                digest.update(padding)
                if file.read(2 * _ETCDS_BLOCK) not in (b"", padding + digest.digest()):
                    raise damaged("something comes after its end")
                yield part
                return
            digest.update(head + body)
            keys += len(part.rows) if isinstance(part, Page) else 0
            yield part


# --- restoring -----------------------------------------------------------------------------------


def restore(path: Path, cluster: ClusterDescription, *, of: str = "") -> Summary:
    """Make the data directories of these servers, of a new cluster that holds a backup.

    Either all of them are there in the end, or none. The backup has to be of the cluster of that
    name, or of the one named as `of`. Raises `PaxonError`.
    """
    targets = {s: Path(entry.directory) for s, entry in cluster.servers.items()}
    for target in targets.values():
        check_free(target)
    summary = verify(path)
    wanted = of or cluster.id
    if summary.cluster not in ("", wanted):
        raise BackupError(
            f"{path} is of cluster {summary.cluster!r}, and not of {wanted!r}: take the right file,"
            f" or say that this one is meant with --from {shlex.quote(summary.cluster)}; nothing "
            "was made"
        )
    application, agreed = _contents(path)
    found_cluster(targets, cluster.id, snapshot_of(application, agreed), agreed)
    return summary


def _contents(path: Path) -> tuple[Application, Agreed]:
    """A backup as the store of a new cluster, and its agreed settings."""
    state = State()
    state_agreed: dict[str, int | float] = {}
    for part in _parts(path):
        if isinstance(part, Head):
            state.revision = part.revision
            state_agreed = part.agreed
        elif isinstance(part, Page):
            state.data.update({row[0]: Item(*row) for row in part.rows})
        elif isinstance(part, Leased):
            for number, ttl, left in part.leases:  # the new log's time begins at 0
                state.leases.add(Lease(number, ttl * 1_000_000, left * 1_000_000, {}))
    machine = KVStore()
    known = {*NAMES, *machine.limits}
    agreed = first_agreed({n: v for n, v in state_agreed.items() if n in known}, machine.limits)
    application = Application(machine, agreed)
    restart_revisions(machine, state)
    return application, agreed
