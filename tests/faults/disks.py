"""Faults of disks: full ones, and a byte that is no longer what was written."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from paxon.actors import ServerId
from paxon.actors.messages import StatusReply
from paxon.kvstore import Client, Overloaded, PaxonError
from paxon.kvstore.cluster.local_cluster import ClusterError
from tests.cluster.helpers import wait_until
from tests.faults.networks.network import RelayedCluster
from tests.faults.pauses import PlainCluster
from tests.faults.trial import Outcome, Trial

__all__ = [
    "deleted_files",
    "disk_full",
    "flipped_byte",
    "no_small_disks",
    "outgrown_disks",
    "tight_disks",
    "tight_disks_with_one_down",
]

SMALL_DISK = 32 << 20
ROOM_LEFT = 256 << 10
"""Bytes that a disk has left once it is to run full."""


# --- a full disk ---------------------------------------------------------------------------------


@cache
def no_small_disks() -> str:
    """Why no small file system can be mounted here; "" if one can."""
    if shutil.which("mount") is None:
        return "there is no mount command"
    with tempfile.TemporaryDirectory() as place:
        try:
            with small_disk(Path(place) / "trial", 1 << 20):
                return ""
        except (OSError, subprocess.CalledProcessError):
            return "mounting a tmpfs takes root's rights"


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A file system of its own at `path`, with room for `size` bytes."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


def fill(path: Path, leave: int) -> Path:
    """Put a file in the way that leaves only so many bytes; returns it."""
    ballast = path / "ballast"
    state = os.statvfs(path)
    size = state.f_bavail * state.f_frsize - leave
    try:
        with ballast.open("wb") as file:
            file.write(bytes(max(0, size)))
    except OSError as error:  # somebody else took the room meanwhile: full is full
        if error.errno != errno.ENOSPC:
            raise
    return ballast


def disk_full(directory: Path, long: bool) -> Outcome:
    """A server's disk runs full under load: it stops and says so, the others go on."""
    data = directory / "small-disks"
    with ExitStack() as stack:
        for server in (1, 2, 3):
            stack.enter_context(small_disk(data / f"server-{server}", SMALL_DISK))
        cluster = stack.enter_context(RelayedCluster(3, data, snapshot_bytes=4 << 20))
        with Trial("disk-full", cluster, directory, long=long) as trial:
            for turn in range(trial.sized(2, 10)):
                leads = turn % 2 == 0
                victim = cluster.leader() if leads else trial.draw.choice(trial.followers())
                ballast = fill(data / f"server-{victim}", ROOM_LEFT)
                trial.fault()
                write_until_it_fails(cluster, victim)
                trial.load.wait_for_more(100)
                ballast.unlink()
                cluster.restart(victim)
                trial.load.wait_for_more(100)
        return trial.verify()


def outgrown_disks(directory: Path, long: bool) -> Outcome:
    """The state outgrows its disks: clients are told so, all servers go on and answer reads.

    With larger disks writes go on as well, without a restart.
    """
    data = directory / "outgrown"
    with ExitStack() as stack:
        for server in (1, 2, 3):
            stack.enter_context(small_disk(data / f"server-{server}", SMALL_DISK))
        cluster = stack.enter_context(RelayedCluster(3, data))
        with Trial("outgrown-disks", cluster, directory, long=long, pause=0.02) as trial:
            trial.load.wait_for_more(20)
            with cluster.client(timeout=4) as client:
                written = write_until_refused(client)
                trial.fault()
                assert [row.state for row in cluster.status()] == ["running"] * 3
                assert len(client.get(f"grows/{written}", timeout=60) or b"") == VALUE_BYTES
                for server in (1, 2, 3):
                    path = str(data / f"server-{server}")
                    command = ["mount", "-o", f"remount,size={4 * SMALL_DISK}", path]
                    subprocess.run(command, check=True, capture_output=True)
                client.put("grows/on", bytes(VALUE_BYTES), timeout=60)
            trial.load.wait_for_more(20)
        return trial.verify()


def write_until_refused(client: Client) -> int:
    """Write ever more until it is refused for want of room; returns what was written last."""
    for number in range(4 * SMALL_DISK // VALUE_BYTES):
        try:
            client.put(f"grows/{number}", bytes(VALUE_BYTES))
        except Overloaded as refused:
            assert "disks have little room" in str(refused), refused
            return number - 1
    raise AssertionError("more was written than the disks can hold")


STATE_BYTES, VALUE_BYTES = 40_000_000, 100_000
HISTORY_BYTES = 1_000_000
"""What was replaced is part of the state, too, until it is compacted away: after so much of it."""
TIGHT_DISK = (STATE_BYTES + HISTORY_BYTES) * 5 // 2
"""Enough for the state's two snapshots and some log; it took 4.5 times once."""


def write_over_and_over(client: Client, times: int) -> None:
    """The whole state so many times; of what was there before no more than so much is kept."""
    for number in range(times * STATE_BYTES // VALUE_BYTES):
        key = f"filler/{number % (STATE_BYTES // VALUE_BYTES)}"
        revision = client.put(key, os.urandom(VALUE_BYTES))
        if number % (HISTORY_BYTES // VALUE_BYTES) == 0:
            client.compact(revision)


def tight_disks(directory: Path, long: bool, *, shared: bool = False) -> Outcome:
    """A state of 40 MB is written over and over on disks of two and a half times its size.

    Where it is `shared`, the servers have one of three times as much.
    """
    name = "shared-disk" if shared else "tight-disks"
    data = directory / name
    with ExitStack() as stack:
        for place in [data] if shared else [data / f"server-{server}" for server in (1, 2, 3)]:
            stack.enter_context(small_disk(place, 3 * TIGHT_DISK if shared else TIGHT_DISK))
        cluster = stack.enter_context(RelayedCluster(3, data))
        with Trial(name, cluster, directory, long=long, pause=0.02) as trial:
            with cluster.client(timeout=60) as client:
                write_over_and_over(client, trial.sized(2, 20))
            trial.fault()
            failed = [row for row in cluster.status() if row.state == "failed"]
            assert not failed, failed[0].reason
            trial.load.wait_for_more(100)
        return trial.verify()


A_SERVER_DOWN = STATE_BYTES * 17 // 4
"""Beside that the log keeps up to `retain_bytes` for the one that is down."""


def tight_disks_with_one_down(directory: Path, long: bool) -> Outcome:
    """As `tight_disks`, while a server is down and the log is kept for it; it comes back."""
    data = directory / "one-down"
    with ExitStack() as stack:
        for server in (1, 2, 3):
            stack.enter_context(small_disk(data / f"server-{server}", A_SERVER_DOWN))
        cluster = stack.enter_context(RelayedCluster(3, data))
        with Trial("one-down", cluster, directory, long=long, pause=0.02) as trial:
            down = trial.draw.choice(trial.followers())
            cluster.kill(down)
            with cluster.client(timeout=60) as client:
                write_over_and_over(client, trial.sized(3, 20))
            trial.fault()
            failed = [row for row in cluster.status() if row.state == "failed"]
            assert not failed, failed[0].reason
            cluster.restart(down)
            trial.load.wait_for_more(100)
        return trial.verify()


def write_until_it_fails(cluster: RelayedCluster, victim: ServerId) -> None:
    """Write until the victim has noticed; others must not."""
    with cluster.client(timeout=20) as client:
        for number in range(1000):
            row = cluster.status()[victim - 1]
            if row.state == "failed":
                assert "the disk is full: free some space" in row.reason, row.reason
                return
            client.put(f"filler/{number % 4}", bytes(100_000))
    raise AssertionError(f"server {victim} goes on with a full disk")


# --- files that are gone -------------------------------------------------------------------------


def deleted_files(directory: Path, long: bool) -> Outcome:
    """Under load a server's directory, or its database, is moved away: it stops and says so.

    It comes back with an empty directory, as the sentence says.
    """
    data = directory / "deleted"
    with PlainCluster(3, data) as cluster:
        with Trial("deleted-files", cluster, directory, long=long) as trial:
            for turn in range(trial.sized(2, 20)):
                leads = turn % 2 == 0
                victim = cluster.leader() if leads else trial.draw.choice(trial.followers())
                place = data / f"server-{victim}"
                gone = place if trial.draw.random() < 0.5 else place / "paxon.db"
                gone.rename(data / f"gone-{turn}")
                trial.fault()
                wait_until(partial(_says_what_is_gone, cluster, victim), f"{gone} is missed")
                trial.load.wait_for_more(100)
                shutil.rmtree(place, ignore_errors=True)
                cluster.restart(victim, rejoin=True)
                wait_until(partial(_votes, cluster, victim), f"server {victim} votes again")
                trial.load.wait_for_more(100)
        return trial.verify()


def _says_what_is_gone(cluster: PlainCluster, victim: ServerId) -> bool:
    row = cluster.status()[victim - 1]
    if row.state != "failed":
        return False
    assert "was deleted or replaced while this server ran" in row.reason, row.reason
    return True


def _votes(cluster: PlainCluster, server: ServerId) -> bool:
    reply = cluster.status()[server - 1].reply
    return reply is not None and reply.part == "voter" and not reply.waits_for


# --- a flipped byte ------------------------------------------------------------------------------

FILES = ("paxon.db", "paxon.db-wal", "paxon.witness", "snapshot-*.paxon")


def flipped_byte(directory: Path, long: bool) -> Outcome:
    """One byte of a killed server's files differs: it is refused, or it did not matter.

    "Did not matter" means that the server comes back with no less than what it had promised and
    accepted, and to the same state as the others.
    """
    data = directory / "flipped"
    draw = random.Random(17)
    refused = 0
    options = {"snapshot_slots": 200, "snapshot_bytes": 64 << 10}
    with RelayedCluster(3, data, **options) as cluster:
        with Trial("flipped-byte", cluster, directory, long=long) as trial:
            trial.load.wait_for_more(400)
            for _ in range(trial.sized(5, 150)):
                victim = draw.choice(cluster.servers)
                before = status_of(cluster, victim)
                cluster.kill(victim)
                refused += flip_and_restart(cluster, victim, before, draw)
                trial.fault()
                trial.load.wait_for_more(30)
        assert refused > 0, "none of the flips was noticed"
        return trial.verify()


def flip_and_restart(
    cluster: RelayedCluster, victim: ServerId, before: StatusReply, draw: random.Random
) -> bool:
    """Flip a byte and start the killed server; whether that was refused (then it is undone)."""
    place = cluster.directory / f"server-{victim}"
    backup = place.with_name(f"{place.name}.backup")
    shutil.copytree(place, backup)
    file = draw.choice([f for kind in FILES for f in place.glob(kind) if f.stat().st_size])
    offset = flip(file, draw)
    what = f"byte {offset} of {file.name}"
    try:
        cluster.restart(victim)
    except ClusterError as error:
        sentence = str(error)
        assert "internal error" not in sentence and "exit code" not in sentence, (what, sentence)
        # It has not run since, so nothing that it said is taken back by this.
        shutil.rmtree(place)
        backup.rename(place)
        cluster.restart(victim)
        return True
    shutil.rmtree(backup)
    after = status_of(cluster, victim)
    assert after.ballot >= before.ballot, f"{what}: the promise fell"
    assert after.accepted >= before.accepted, f"{what}: accepted slots are gone"
    wait_until(lambda: caught_up(cluster, victim), f"{what}: the server catches up")
    return False


def caught_up(cluster: RelayedCluster, victim: ServerId) -> bool:
    """Whether the server has the same state as some other at the same slot; it must not fail."""
    rows = cluster.status()
    assert rows[victim - 1].state == "running", rows[victim - 1].reason
    replies = [row.reply for row in rows if row.reply is not None]
    mine = [reply for reply in replies if reply.server == victim]
    for reply in replies:
        if mine and reply.server != victim and reply.executed == mine[0].executed:
            assert reply.state_digest == mine[0].state_digest, "a damaged state is served"
            return True
    return False


def flip(file: Path, draw: random.Random) -> int:
    """Change one byte; returns which."""
    offset = draw.randrange(file.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(offset)
        (byte,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ draw.randrange(1, 256)]))
    return offset


def status_of(cluster: RelayedCluster, server: ServerId) -> StatusReply:
    """What a running server says of itself."""
    reply = cluster.status(5.0)[server - 1].reply
    if reply is None:
        raise PaxonError(f"server {server} does not answer")
    return reply
