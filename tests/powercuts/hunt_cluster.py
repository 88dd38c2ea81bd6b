"""Cuts the power of a whole recorded cluster: what clients were told is on a majority of disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from paxon.actors import StorageError
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.kvstore import LocalCluster
from tests.powercuts.cluster_child import SETTINGS
from tests.powercuts.disks import FATES, Disk, draw_cuts
from tests.powercuts.hunt import ROOT, Hunt
from tests.powercuts.recorder import Call, Kind, Recorder

__all__ = ["hunt_cluster"]

Acknowledged = dict[str, bytes]


def hunt_cluster(
    place: Path, seed: int, *, writes: int, cuts: int, restarts: int
) -> Hunt:  # fmt: skip
    """Record a cluster under load, cut, and look at all of its disks.

    On the last `restarts` of the cuts it is started again as a whole, and asked for everything.
    """
    recorder = Recorder(place / "recorded", place)
    calls = _record(recorder, writes)
    found = Hunt(calls=len(calls))
    random = Random(f"cluster {seed}")
    disk, done = Disk(recorder.root), 0
    told: Acknowledged = {}
    for number, cut in enumerate(draw_cuts(calls, cuts, random)):
        for call in calls[done:cut]:
            disk.do(call)
            if call.kind is Kind.MARK:
                mark = json.loads(call.data)
                told[mark["key"]] = mark["value"].encode()
        done = cut
        left, fate = place / "left", random.choice(FATES)
        disk.write(left, fate, random)
        found.fates[fate] = found.fates.get(fate, 0) + 1
        found.disks += 3
        problem = _majority_has(left / "made" / "cluster", told)
        if not problem and cuts - number <= restarts:
            problem = _serves(left / "made" / "cluster", told)
        if problem:
            found.broken = (
                f"{problem} (seed {seed}, cut after call {cut} of {len(calls)}, what was not "
                f"synced: {fate}, {len(told)} writes acknowledged)"
            )
            return found
        shutil.rmtree(left)
    return found


def _record(recorder: Recorder, writes: int) -> list[Call]:
    directory = recorder.root / "made" / "cluster"
    command = [
        sys.executable, "-m", "tests.powercuts.cluster_child", str(directory), str(writes),
    ]  # fmt: skip
    environment = os.environ | recorder.environment
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    recorder.close()
    assert done.returncode == 0, done.stderr
    return list(recorder.calls())


def _majority_has(directory: Path, told: Acknowledged) -> str:
    """Whether two of three disks hold each acknowledged write, in a row or in the snapshot."""
    missing: dict[str, int] = dict.fromkeys(told, 0)
    for server in (1, 2, 3):
        place = directory / f"server-{server}"
        copy = directory / f"looked-at-{server}"
        if place.exists():
            shutil.copytree(place, copy)
        try:
            held = list(_held(copy)) if copy.exists() else []
        except StorageError as error:
            return f"server {server} is refused: {error}"
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        for key, value in told.items():
            missing[key] += not any(value in content for content in held)
    lost = [key for key, count in missing.items() if count > 1]
    return f"acknowledged, and not on a majority of disks: {lost[:5]}" if lost else ""


def _held(directory: Path) -> Iterator[bytes]:
    """All contents of one server's disk: accepted values, and the snapshot's image."""
    server = int(directory.name.rpartition("-")[2])
    storage = SqliteStorage(directory, _cluster_id(directory.parent), server)
    try:
        found = storage.load()
        for accepted in found.accepted:
            yield accepted.value
        if found.snapshot is not None:
            yield storage.read_snapshot(found.snapshot.slot, 0, found.snapshot.size)
    finally:
        storage.close()


def _cluster_id(directory: Path) -> str:
    """As some server's witness has it."""
    for witness in directory.glob("*/paxon.witness"):
        for line in witness.read_text(errors="replace").splitlines():
            if line.startswith("cluster "):
                return line.removeprefix("cluster ")
    return ""


def _serves(directory: Path, told: Acknowledged) -> str:
    """Start the whole cluster on its disks, and read what was acknowledged."""
    with (
        LocalCluster(3, directory=directory, **SETTINGS) as cluster,  # type: ignore[arg-type] # a dict of settings
        cluster.client(timeout=60) as client,
    ):
        lost = [key for key, value in told.items() if client.get(key) != value]
        client.put("after", b"the cut")
    return f"acknowledged, and lost: {lost[:5]}" if lost else ""
