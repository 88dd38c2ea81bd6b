"""A real storage and a real cluster after power cuts at any moment (docs/checks/power-cuts.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.powercuts.disks import Disk
from tests.powercuts.hunt import hunt, room
from tests.powercuts.hunt_cluster import hunt_cluster
from tests.powercuts.planted import PLANTED, by_name
from tests.powercuts.recorder import Kind, Recorder, RecorderError, why_not
from tests.soak import sized

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "not skipped"),
]

SEEDS = sized(2, 300)
DISKS = sized(60, 200)
"""Of each seed, and about as many again where the power is cut twice."""

PLANTED_SEEDS = 5
"""Within so many seeds each planted bug has to be found."""


def test_a_storage_keeps_its_promises_on_every_disk_that_a_power_cut_leaves() -> None:
    disks = 0
    for seed in range(SEEDS):
        found = hunt(seed, DISKS)
        assert not found.broken, found.broken
        disks += found.disks
    assert disks > SEEDS * DISKS
    print(f"{disks} disks of {SEEDS} seeds")


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_of_the_storage_is_found(bug: object) -> None:
    assert any(hunt(seed, 150, bug.name).broken for seed in range(PLANTED_SEEDS))  # type: ignore[attr-defined]


def test_a_cluster_that_loses_its_power_has_all_that_clients_were_told(tmp_path: Path) -> None:
    for seed in range(sized(1, 20)):
        with room() as place:
            found = hunt_cluster(place, seed, writes=25, cuts=sized(15, 60), restarts=1)
        assert not found.broken, found.broken
        assert found.calls > 1000


def record(tmp_path: Path, program: str) -> Recorder:
    recorder = Recorder(tmp_path / "recorded", tmp_path)
    command = [sys.executable, "-c", program]
    subprocess.run(
        command, cwd=recorder.root, env=os.environ | recorder.environment, check=True
    )  # fmt: skip
    recorder.close()
    return recorder


def test_calls_are_recorded_in_order_with_what_they_wrote(tmp_path: Path) -> None:
    recorder = record(
        tmp_path,
        "import os\n"
        "f = os.open('a', os.O_RDWR | os.O_CREAT)\n"
        "os.write(f, b'one'); os.pwrite(f, b'two', 1); os.writev(f, [b'x', b'yz'])\n"
        "os.fsync(f); os.ftruncate(f, 2); os.fdatasync(f); os.posix_fallocate(f, 0, 9)\n"
        "os.mkdir('d'); os.rename('a', 'b'); os.unlink('b'); os.rmdir('d')\n"
        "os.open(os.devnull, os.O_RDWR | os.O_CREAT); os.open('b', os.O_CREAT | os.O_TRUNC)\n"
        "os.open('b', os.O_CREAT | os.O_TRUNC)\n",
    )
    calls = [(c.kind, c.path.rpartition("/")[2], c.offset, c.size, c.data)
             for c in recorder.calls()]  # fmt: skip
    assert calls == [
        (Kind.CREATE, "a", 0, 0, b""),
        (Kind.WRITE, "a", 0, 3, b"one"),
        (Kind.WRITE, "a", 1, 3, b"two"),
        (Kind.WRITE, "a", 3, 1, b"x"),
        (Kind.WRITE, "a", 4, 2, b"yz"),
        (Kind.SYNC_BEGIN, "a", 0, 0, b""),
        (Kind.SYNC_END, "a", 0, 0, b""),
        (Kind.TRUNCATE, "a", 0, 2, b""),
        (Kind.SYNC_BEGIN, "a", 0, 0, b""),
        (Kind.SYNC_END, "a", 0, 0, b""),
        (Kind.ALLOCATE, "a", 0, 9, b""),
        (Kind.MKDIR, "d", 0, 0, b""),
        (Kind.RENAME, "a", 0, 0, b""),
        (Kind.UNLINK, "b", 0, 0, b""),
        (Kind.UNLINK, "d", 0, 0, b""),
        (Kind.CREATE, "b", 0, 0, b""),
        (Kind.TRUNCATE, "b", 0, 0, b""),
    ]
    disk = Disk(recorder.root)
    for call in recorder.calls():
        disk.do(call)


def test_a_call_that_is_not_understood_is_an_error_and_not_a_hole(tmp_path: Path) -> None:
    recorder = record(
        tmp_path,
        "import mmap, os\n"
        "f = os.open('a', os.O_RDWR | os.O_CREAT); os.write(f, bytes(4096)); mmap.mmap(f, 4096)\n",
    )
    with pytest.raises(RecorderError, match="mmap for writing"):
        list(recorder.calls())


def test_an_unknown_bug_is_named() -> None:
    with pytest.raises(KeyError, match="no planted bug"):
        by_name("none of them")
