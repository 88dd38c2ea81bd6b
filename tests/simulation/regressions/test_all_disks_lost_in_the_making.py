"""All directories of a cluster were lost one by one while it was coming into force.

Found by seed 961045 about coordination and cut down by it. The fault was the simulator's: nothing
had been acknowledged, so the servers made another cluster, as they may; its books held on to the
first.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 961045,
  "steps": 437,
  "servers": 3,
  "policy": "immediate",
  "settings": {},
  "network": {
    "latency": 0.002,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.01,
    "ghost_time": 2.0,
    "ordered": true,
    "moving": true,
    "split": false,
    "service": 0.0001,
    "sync": 0.0001,
    "kept": 300
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.03,
    "patience": 1.0,
    "keys": 1,
    "weights": {
      "scan": 0
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.02,
    "roles": true,
    "duplicates": false
  },
  "faults": [
    [16, "lossy", 1, 0.1043, 0.8437, 4],
    [26, "replay", 1, 1.1765, 0.8265, 14],
    [27, "crash_before_sync", 2, 0.3726, 0.4625, 4],
    [36, "crash_all", 1, 0.8842, 0.6485, 14],
    [45, "lose_disk", 3, 0.14523333333333333, 0.7174, 14],
    [167, "lose_disk", 0, 0.38986666666666664, 0.0151, 0],
    [284, "lose_disk", 2, 0.2799333333333333, 0.2601, 0],
    [432, "lose_disk", 0, 0.3886, 0.2395, 2]
  ],
  "clock_rates": [1.0, 1.0, 1.0],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": false,
  "spare": 0,
  "coordination": {
    "clients": 2,
    "errands": 1,
    "watches": 1,
    "think": 0.2,
    "patience": 2.0,
    "ttls": [300, 300],
    "least_ttl": 300,
    "names": 2,
    "stalls": 0.0,
    "weights": {
      "lease": 2,
      "transact": 0,
      "compact": 0,
      "read": 0,
      "lock": 0,
      "semaphore": 2,
      "rwlock": 1,
      "enqueue": 2,
      "barrier": 1,
      "consume": 4,
      "backup": 2
    },
    "tardy": 0.5,
    "short_history": true,
    "drift": false
  }
}
"""


def test_another_cluster_is_made_where_all_have_lost_the_first() -> None:
    replay(PLAN)
