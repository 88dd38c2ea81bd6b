"""It once broke: progress.

A server took over a snapshot, and behind it knew a slot as chosen: the CONFIG that ended its epoch.
With the snapshot it stored that this slot is chosen, and one transaction later that the epoch is
over. It died between the two, and never looked again at a CONFIG that its disk called chosen: it
stayed in the old epoch for good, and the new one, of which it was half, had no leader.

Found by seed 704143 of the simulator, about members, and cut down by it.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 704143,
  "steps": 862,
  "servers": 3,
  "policy": "stable",
  "settings": {
    "retransmit_interval": 0.3,
    "heartbeat_interval": 0.1,
    "election_timeout_min": 0.12,
    "election_timeout_max": 1.0,
    "snapshot_slots": 3
  },
  "network": {
    "latency": 0.0005,
    "drop": 0.01,
    "duplicate": 0.0,
    "straggle": 0.4,
    "straggle_time": 0.1,
    "ghost_time": 2.0,
    "ordered": false,
    "moving": true,
    "split": false,
    "service": 0.0001,
    "sync": 0.001
  },
  "clients": {
    "clients": 1,
    "outstanding": 1,
    "think": 0.01,
    "patience": 1.0,
    "keys": 5,
    "weights": {
      "get": 4,
      "put": 2,
      "append": 3,
      "delete": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": false
  },
  "faults": [
    [5, "stall", 1, 0.3966, 0.0399, 62],
    [13, "lossy", 1, 0.6488, 0.3832, 2],
    [18, "lose_disk", 5, 0.3728, 0.3086, 46],
    [22, "lossy", 3, 0.9219, 0.0036, 44],
    [30, "crash_all", 1, 0.8268, 0.6708, 46],
    [32, "pause", 3, 0.7678, 0.6866, 14],
    [49, "transfer", 0, 0.4247, 0.0089, 20],
    [59, "transfer", 0, 0.3983, 0.0, 2],
    [112, "restart_client", 1, 0.7602, 0.8525, 56],
    [153, "pause", 5, 2.6855, 0.0427, 8],
    [181, "crash_after_sync", 4, 2.8775, 0.7854, 42],
    [182, "disconnect", 0, 2.9288, 0.9178, 8],
    [199, "change", 0, 0.0, 0.6225, 14],
    [206, "stall", 4, 2.5345, 0.4713, 16],
    [206, "lose_disk", 3, 0.1185, 0.0, 14],
    [223, "stall", 3, 2.9065, 0.8041, 52],
    [259, "pause", 5, 2.7036, 0.9438, 62],
    [299, "old_copy", 0, 0.7453, 0.3639, 58],
    [448, "sever", 1, 0.8911, 0.0, 40],
    [478, "crash", 0, 1.4586, 0.2785, 34],
    [535, "disconnect", 5, 1.0397, 0.3791, 2],
    [541, "crash", 4, 0.0204, 0.7998, 50],
    [556, "stall", 0, 2.5227, 0.5217, 42],
    [584, "crash", 0, 2.4299, 0.9086, 48],
    [597, "disconnect", 2, 2.6877, 0.2484, 56],
    [599, "disconnect", 3, 0.363, 0.1679, 6],
    [621, "sever", 2, 0.8814, 0.6766, 32],
    [647, "slow_server", 0, 1.5845, 0.0973, 58],
    [663, "old_copy", 0, 0.0036, 0.7207, 56],
    [663, "old_copy", 1, 0.0036, 1.0, 0],
    [725, "slow_server", 5, 0.6034, 0.9112, 8],
    [766, "crash", 0, 2.9031, 0.154, 36],
    [848, "crash_after_sync", 0, 2.9989, 0.9455, 14]
  ],
  "clock_rates": [1.1751, 0.8926, 0.8047, 1.1751, 0.8926],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": true,
  "spare": 2,
  "coordination": null
}
"""


def test_a_seal_behind_a_snapshot_is_stored_with_it() -> None:
    replay(PLAN)
