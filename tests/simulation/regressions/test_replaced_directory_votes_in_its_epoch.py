"""The simulator took a sound vote for one that nobody gave.

A directory that was replaced by a CONFIG ran on. Two others knew nothing of that CONFIG, confirmed
it with good reason and remembered its commits, as it promised to one of them in the epoch before:
no majority of that epoch lacks the CONFIG, so nothing comes of it. But nobody kept its books.

Found by the simulator, cut down by it from seed 971651 about rarities.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 971651,
  "steps": 1000,
  "servers": 5,
  "policy": "backoff",
  "settings": {
    "window": 2,
    "retransmit_interval": 0.3,
    "backoff_base": 0.05,
    "retain_slots": 3,
    "snapshot_slots": 10,
    "thrifty_delay": 0.05
  },
  "network": {
    "latency": 0.01,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.01,
    "ghost_time": 2.0,
    "ordered": false,
    "moving": true,
    "split": true,
    "service": 0.002,
    "sync": 0.01,
    "kept": 300
  },
  "clients": {
    "clients": 3,
    "outstanding": 1,
    "think": 0.01,
    "patience": 0.1,
    "keys": 5,
    "weights": {
      "get": 4,
      "put": 2,
      "append": 3,
      "delete": 1,
      "cas": 3,
      "scan": 1
    },
    "lease": 0.0,
    "stale": 0.1,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": false
  },
  "faults": [
    [19, "change_settings", 0, 0.0, 0.6345, 33],
    [24, "old_copy", 0, 0.0076, 0.1331, 38],
    [49, "change_settings", 0, 0.0, 0.6265, 184],
    [63, "sever", 0, 0.3309, 0.5858, 42],
    [133, "replay", 0, 1.4484, 0.2738, 26],
    [149, "sever", 1, 0.7345, 1.0, 54],
    [152, "sever", 5, 0.9557, 0.0, 40],
    [195, "cut_one_way", 0, 0.8462, 0.8747, 34],
    [242, "change_settings", 0, 0.0, 0.5937, 135],
    [247, "sever", 0, 0.9482, 1.0, 60],
    [248, "sever", 1, 0.3653, 0.0, 30],
    [313, "crash_at", 2, 1.345, 0.1945, 10],
    [324, "lose_disk", 1, 0.3800666666666667, 0.8773, 52],
    [354, "change_settings", 0, 0.0, 0.9003, 72],
    [384, "twin", 1, 1.1402, 0.8773, 52],
    [398, "change_settings", 0, 0.0, 0.99, 45],
    [422, "bad_snapshots", 0, 0.2275, 0.7372, 62],
    [426, "leap", 5, 0.6719, 0.1025, 42],
    [516, "leap", 1, 0.8688, 0.6519, 30],
    [580, "crash_at", 0, 1.005, 0.9031, 2],
    [854, "lose_disk", 1, 0.16353333333333334, 0.9413, 6],
    [923, "change_settings", 0, 0.0, 0.8481, 99],
    [924, "sever", 0, 0.3938, 0.0, 36],
    [974, "twin", 1, 0.4906, 0.9413, 6]
  ],
  "clock_rates": [0.7316, 1.1879, 1.1244, 0.7724, 1.3407],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {
    "KEPT_SHARE": 100,
    "SLOT_REPLIES": 80,
    "SLOT_REPLIES_AT_MOST": 150,
    "LARGE_REPLY": 65,
    "TRANSFERS_PER_PEER": 100,
    "TURN_MESSAGES": 1,
    "MAX_READS": 2,
    "MAX_READ_BYTES": 1,
    "MAX_BYTES": 1600,
    "OPENINGS": 1
  },
  "made": true,
  "spare": 0,
  "coordination": null
}
"""


def test_a_replaced_directory_votes_in_its_epoch() -> None:
    replay(PLAN)
