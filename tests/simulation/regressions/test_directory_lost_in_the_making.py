"""Directories were lost while the cluster was made, and the simulator misjudged what came after.

Once as a fault of promises: it kept its books of a cluster whose directories it had emptied. Once
as a lack of progress: the one server in force lost its disk, and it emptied none of the others.

Found by the simulator's runs about coordination, from seeds 20008 and 24801.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

TWO_LOST = r"""
{
  "seed": 20008,
  "steps": 319,
  "servers": 3,
  "policy": "random",
  "settings": {},
  "network": {
    "latency": 0.01,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.1,
    "straggle_time": 0.1,
    "ghost_time": 0.0,
    "ordered": false,
    "moving": true,
    "split": true,
    "service": 0.0001,
    "sync": 0.0001
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.1,
    "patience": 0.3,
    "keys": 1,
    "weights": {
      "get": 1,
      "put": 2,
      "delete": 1,
      "cas": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": true,
    "duplicates": true
  },
  "faults": [
    [7, "crash_after_sync", 2, 0.645, 0.3207, 2],
    [16, "lose_disk", 3, 0.8452, 0.3077, 10],
    [18, "lossy", 1, 0.4421, 0.4764, 12],
    [31, "lose_disk", 2, 0.4956, 0.4764, 6],
    [316, "lose_disk", 0, 0.0971, 0.0113, 14]
  ],
  "clock_rates": [0.9792, 1.0086, 0.9955],
  "clock_range": [0.95, 1.05],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": false,
  "spare": 0,
  "coordination": {
    "clients": 1,
    "errands": 1,
    "watches": 2,
    "think": 0.2,
    "patience": 2.0,
    "ttls": [500, 500],
    "least_ttl": 500,
    "names": 1,
    "stalls": 0.5,
    "weights": {
      "lease": 0,
      "transact": 0,
      "compact": 0,
      "read": 0,
      "lock": 1,
      "semaphore": 0,
      "rwlock": 0,
      "enqueue": 0,
      "barrier": 0,
      "consume": 0
    },
    "tardy": 0.0,
    "short_history": false,
    "drift": true
  }
}
"""

THE_FIRST_LOST = r"""
{
  "seed": 24801,
  "steps": 32,
  "servers": 3,
  "policy": "stable",
  "settings": {},
  "network": {
    "latency": 0.01,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.1,
    "straggle_time": 0.1,
    "ghost_time": 0.0,
    "ordered": false,
    "moving": true,
    "split": true,
    "service": 0.0001,
    "sync": 0.0001
  },
  "clients": {
    "clients": 2,
    "outstanding": 2,
    "think": 0.03,
    "patience": 1.0,
    "keys": 1,
    "weights": {
      "scan": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": true,
    "duplicates": true
  },
  "faults": [
    [25, "crash_all", 3, 0.6548, 0.7293, 0],
    [26, "lossy", 2, 0.748, 0.6459, 0],
    [31, "lose_disk", 1, 0.4582, 0.7003, 12]
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
    "errands": 3,
    "watches": 2,
    "think": 0.2,
    "patience": 2.0,
    "ttls": [300, 1200],
    "least_ttl": 300,
    "names": 1,
    "stalls": 0.2,
    "weights": {
      "lease": 1,
      "transact": 1,
      "compact": 0,
      "read": 1,
      "lock": 3,
      "semaphore": 0,
      "rwlock": 2,
      "enqueue": 1,
      "barrier": 0,
      "consume": 2
    },
    "tardy": 0.0,
    "short_history": true,
    "drift": false
  }
}
"""


def test_a_cluster_is_made_again_once_two_directories_were_lost() -> None:
    replay(TWO_LOST)


def test_a_cluster_is_made_again_once_the_first_in_force_is_lost() -> None:
    replay(THE_FIRST_LOST)
