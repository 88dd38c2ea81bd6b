"""`paxon doctor`: looks at a host, a cluster file and running servers, and says what to change."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import zmq

from paxon.actors.disk.data_directory import CONDEMNED_NAME, owner_of
from paxon.actors.messages import VERSION, StatusReply
from paxon.kvstore.client.client import Client
from paxon.kvstore.client.links import Secure
from paxon.kvstore.cluster.cluster_file import ClusterDescription, ServerEntry, ServerPlan
from paxon.kvstore.cluster.health import answering, problems, troubles
from paxon.kvstore.cluster.options import parse_listen
from paxon.kvstore.cluster.server_process import security_of
from paxon.kvstore.cluster.status import look_around
from paxon.kvstore.errors import PaxonError
from paxon.transport import TransportError, in_ephemeral_range
from paxon.transport.binding import bind
from paxon.transport.context import Context

__all__ = ["Finding", "examine"]

Level = Literal["good", "look", "bad"]

SYNCS = 40
SLOW_SYNC = 0.010
"""Seconds. A write waits for the syncs of a majority."""
LEAST_FREE = 1 << 30
"""Bytes."""
ENOUGH_FILES = 4096
LEAST_FILES = 64
"""About what a server needs that has no client yet; with fewer it does not start."""
ANSWER_SECONDS = 1.0
"""For which servers are asked, whether or not they run."""
_QUICK_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen"}
_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    level: Level
    what: str
    """What it is about, in a word or two."""
    text: str
    """What was found, and what to do if it is not good."""


def examine(cluster: ClusterDescription, server: int | None) -> Iterator[Finding]:
    """Look at all of it; with `server`, at this host as that server's, too."""
    yield from _this_host()
    yield from _size(cluster)
    for entry in cluster.servers.values():
        yield from _names(entry)
    if server is not None:
        plan = cluster.plan(server, environment=os.environ)
        yield from _ports(plan.entry)
        yield from _keys(plan)
        try:
            yield from _directory(plan)
            yield from _disk(plan)
        except OSError as error:
            where, why = plan.entry.directory, error.strerror
            yield Finding("bad", "directory", f"{where} cannot be read ({why}): see to its rights")
    yield from _running(cluster, server)


def _this_host() -> Iterator[Finding]:
    yield Finding(
        "good", "versions",
        f"Paxon {VERSION}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"libzmq {zmq.zmq_version()}, {platform.system()} {platform.release()}",
    )  # fmt: skip
    if sys.platform != "linux":
        yield Finding("look", "system", "Paxon is tested on Linux: run servers there")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_FILES:
        yield Finding(
            "look" if hard >= LEAST_FILES else "bad", "file limit",
            f"a process may open {hard} files, and each client takes one: raise the hard limit "
            "(LimitNOFILE= of a systemd unit, ulimit -Hn)",
        )  # fmt: skip
    else:
        yield Finding("good", "file limit", "enough files may be open")
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if longest != resource.RLIM_INFINITY:
        yield Finding(
            "bad", "file limit",
            f"a file may grow to {longest:,} bytes, and a server whose log cannot grow stops: "
            "raise the limit (LimitFSIZE= of a systemd unit, ulimit -f)",
        )  # fmt: skip
    yield from _clock(_CLOCK)


def _clock(path: Path) -> Iterator[Finding]:
    try:
        source = path.read_text(encoding="utf-8").strip()
    except OSError:
        return
    if source in _QUICK_CLOCKS:
        yield Finding("good", "clock", f"the kernel's clock is {source}")
    else:
        yield Finding(
            "look", "clock",
            f"the kernel's clock is {source}, which is slow to read: a server reads it some ten "
            "times a step; see whether the machine offers tsc",
        )  # fmt: skip


def _size(cluster: ClusterDescription) -> Iterator[Finding]:
    count = len(cluster.servers)
    lost = (count - 1) // 2
    if count < 3:
        yield Finding("look", "servers", f"{count} of them: not one may be lost; three survive one")
    elif count % 2 == 0:
        yield Finding(
            "look", "servers", f"{count} of them survive the loss of {lost}, as {count - 1} would"
        )
    else:
        yield Finding("good", "servers", f"{count} of them survive the loss of {lost}")
    hosts = {_host(entry.peer) for entry in cluster.servers.values()}
    if count > 1 and len(hosts) == 1:
        yield Finding("look", "hosts", "all servers are on one host, and go down with it")


def _host(address: str) -> str:
    return urlsplit(address).hostname or "" if address.startswith("tcp://") else ""


def _names(entry: ServerEntry) -> Iterator[Finding]:
    for host in dict.fromkeys((_host(entry.peer), _host(entry.client))):
        if not host:
            continue
        started = time.monotonic()
        try:
            found = {each[4][0] for each in socket.getaddrinfo(host, None)}
        except OSError as error:
            yield Finding(
                "bad", "names",
                f"server {entry.id}: {host} is not known here ({error.strerror or error}): correct "
                "the name in the cluster file, or the name service",
            )  # fmt: skip
            continue
        took = time.monotonic() - started
        if took > 1.0:
            yield Finding(
                "look", "names", f"server {entry.id}: it took {took:.1f} s to find {host}"
            )
        else:
            at = ", ".join(sorted(map(str, found)))
            said = host if host == at else f"{host} is {at}"
            yield Finding("good", "names", f"server {entry.id}: {said}")


def _ports(entry: ServerEntry) -> Iterator[Finding]:
    listening = [("servers", entry.peer_bind), ("clients", entry.client_bind)]
    if entry.metrics:
        host, port = parse_listen(entry.metrics)
        listening.append(("figures", f"tcp://{f'[{host}]' if ':' in host else host or '*'}:{port}"))
    for name, address in listening:
        if not address.startswith("tcp://"):
            continue
        context = Context()
        try:
            bind(context.socket(zmq.ROUTER), address, f"port for {name}", lambda: True)
        except TransportError as error:
            if getattr(error.__cause__, "errno", 0) == errno.EADDRINUSE:
                yield Finding(
                    "look", "ports",
                    f"{address} for {name} is in use: right if this server runs already, else stop "
                    "what listens there",
                )  # fmt: skip
            else:
                yield Finding("bad", "ports", str(error))
            continue
        finally:
            context.destroy(0)
        if in_ephemeral_range(address):
            yield Finding(
                "look", "ports",
                f"{address} for {name} is in the range of outgoing connections "
                "(net.ipv4.ip_local_port_range): another program may be given it while this server "
                "is down",
            )  # fmt: skip
        else:
            yield Finding("good", "ports", f"{address} for {name} is free")


def _keys(plan: ServerPlan) -> Iterator[Finding]:
    try:
        if security_of(plan) is not None:
            yield Finding("good", "keys", f"{plan.entry.key_file} is this server's")
    except TransportError as error:
        yield Finding("bad", "keys", str(error))


def _directory(plan: ServerPlan) -> Iterator[Finding]:
    """Whose it is, without opening it."""
    directory = Path(plan.entry.directory)
    owner = owner_of(directory)
    if (directory / CONDEMNED_NAME).exists():
        reason = (directory / CONDEMNED_NAME).read_text(errors="replace").strip()
        yield Finding("bad", "directory", f"{directory}: {reason}")
    elif owner.trouble:
        yield Finding("bad", "directory", owner.trouble)
    elif not owner.server:
        yield Finding("good", "directory", f"{directory} is empty or new")
    elif owner[:2] != (plan.settings.cluster, plan.entry.id):
        yield Finding(
            "bad", "directory",
            f"{directory} is of server {owner.server} of cluster {owner.cluster!r}: give it its "
            "own",
        )  # fmt: skip
    elif closed := [p for p in directory.iterdir() if not os.access(p, os.R_OK | os.W_OK)]:
        yield Finding(
            "bad", "directory",
            f"{closed[0]} is not this user's to read and write: see to its rights",
        )  # fmt: skip
    else:
        yield Finding("good", "directory", f"{directory} is this server's")


def _disk(plan: ServerPlan) -> Iterator[Finding]:
    directory = Path(plan.entry.directory)
    there = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryDirectory(prefix=".paxon-doctor-", dir=there) as scratch:
            took = sorted(_syncs(Path(scratch) / "file", SYNCS))
    except OSError as error:
        yield Finding(
            "bad", "directory", f"{there} cannot be written ({error.strerror}): see to its rights"
        )
        return
    if free < LEAST_FREE:
        yield Finding(
            "bad",
            "space",
            f"{free / (1 << 20):.0f} MiB are free at {there}: make it 1 GiB at least",
        )
    else:
        yield Finding("good", "space", f"{free / (1 << 30):.1f} GiB are free at {there}")
    median, worst = statistics.median(took), took[-1]
    said = f"a sync takes {median * 1000:.2f} ms, the slowest of {SYNCS} {worst * 1000:.1f} ms"
    if worst > plan.settings.election_timeout_min:
        yield Finding(
            "bad", "sync",
            f"{said}: longer than an election timeout, so leaders will not last; use another disk, "
            "or raise election_timeout_min",
        )  # fmt: skip
    elif median > SLOW_SYNC:
        yield Finding("look", "sync", f"{said}: each write waits for it; use a quicker disk")
    else:
        yield Finding("good", "sync", said)


def _syncs(
    path: Path, count: int, clock: Callable[[], float] = time.perf_counter
) -> Iterator[float]:
    """Seconds of each of so many syncs, as a commit's."""
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(b"x" * 4096)
            started = clock()
            os.fdatasync(file.fileno())
            yield clock() - started


def _running(cluster: ClusterDescription, server: int | None) -> Iterator[Finding]:
    """Findings by running servers; that none runs is no fault: they may be about to start."""
    if cluster.client_keys is not None:
        yield Finding(
            "look", "running", "clients need a key: see paxon status --cluster FILE --key FILE"
        )
        return
    secure = cluster.secure()
    rows = look_around(cluster.client_addresses, ANSWER_SECONDS, secure)
    for row in rows:
        if row.reply is not None and row.reply.cluster != cluster.id:
            yield Finding(
                "bad", "running",
                f"at {row.address} is server {row.reply.server} of cluster {row.reply.cluster!r}: "
                "correct the address, or stop what listens there",
            )  # fmt: skip
    rows = [row for row in rows if row.reply is None or row.reply.cluster == cluster.id]
    replies = [row.reply for row in rows if row.reply is not None]
    if not replies:
        for trouble in troubles(rows):
            yield Finding("bad", "running", trouble)
        yield Finding("look", "running", "no server answers: right if none is started yet")
        return
    for problem in problems(rows):
        yield Finding("bad", "running", problem)
    newest = max(replies, key=lambda reply: reply.epoch)
    for row in rows:
        if row.reply is None and row.server in (newest.members or [row.server]):
            yield Finding(
                "look", "running", f"server {row.server} at {row.address} does not answer"
            )
    versions = sorted({reply.version for reply in replies})
    if len(versions) > 1:
        yield Finding(
            "look", "running",
            f"servers run releases {' and '.join(versions)}: finish the upgrade",
        )  # fmt: skip
    yield from _members(cluster, replies)
    if server is not None and all(reply.server != server for reply in replies):
        alive = [row.address for row in rows if row.reply is not None]
        yield from _lost_disk(cluster.servers[server], alive, secure)
    there, all_ = answering(rows)
    yield Finding("good", "running", f"{there} of {all_} servers answer")


def _members(cluster: ClusterDescription, replies: list[StatusReply]) -> Iterator[Finding]:
    """The servers that take part, by those that know of the last change."""
    newest = max(replies, key=lambda reply: reply.epoch)
    for reply in replies:
        if reply.epoch < newest.epoch:
            yield Finding(
                "look", "members",
                f"server {reply.server} is in epoch {reply.epoch}, and server {newest.server} in "
                f"epoch {newest.epoch}: it is cut off, or was removed",
            )  # fmt: skip
        elif reply.part == "learner":
            yield Finding("look", "members", f"server {reply.server} learns, and has no vote yet")
        elif reply.part == "none":
            yield Finding(
                "look", "members", f"server {reply.server} runs, and is no member: stop or add it"
            )
    if not newest.members:
        return
    said = ", ".join(map(str, newest.members))
    if set(newest.members) != set(cluster.servers):
        yield Finding(
            "look", "members",
            f"they are {said}, and the file lists others: members come from the directories, so "
            "bring the file up to date",
        )  # fmt: skip
    else:
        yield Finding("good", "members", f"they are {said}, in epoch {newest.epoch}")


def _lost_disk(entry: ServerEntry, alive: list[str], secure: Secure | None) -> Iterator[Finding]:
    """Whether the members know another directory of this server, which does not run, or none."""
    own = owner_of(Path(entry.directory)).incarnation
    try:
        with Client(alive, timeout=2.0, secure=secure) as kv:
            members = kv.cluster_members().members
    except PaxonError:
        return
    if any(each.server == entry.id and each.incarnation != own for each in members):
        yield Finding(
            "bad", "directory",
            f"{entry.directory} is not the one that the members know as server {entry.id}'s: give "
            "the old one back, or empty it and start once with --rejoin",
        )  # fmt: skip
    elif own and all(each.server != entry.id for each in members):
        yield Finding(
            "look", "directory",
            f"{entry.directory} is of no member of the cluster that runs: if its server was "
            "removed from it, or is of a cluster that this one replaces, empty it; `paxon server "
            f"--join`, then `paxon member add {entry.id}` make it a member",
        )  # fmt: skip
