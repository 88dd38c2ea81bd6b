"""It once broke: leads by whole promises.

Found by seed 22 of the simulator and cut down by it. The books were at fault: a server asked for a
ballot, nobody heard of it, its disk was lost, and it drew the same ballot again, from a later slot.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 22,
  "steps": 393,
  "servers": 3,
  "policy": "backoff",
  "settings": {
    "election_timeout_min": 0.12
  },
  "network": {
    "latency": 0.002,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.5,
    "ghost_time": 2.0,
    "ordered": true,
    "moving": false,
    "split": false,
    "service": 0.0001,
    "sync": 0.0001
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.1,
    "patience": 1.0,
    "keys": 1,
    "weights": {
      "cas": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.02,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [171, "crash_before_sync", 0, 1.6607, 0.8146, 4],
    [338, "partition", 2, 0.7877, 0.1688, 12],
    [390, "lose_disk", 1, 1.4197, 0.5561, 8]
  ],
  "clock_rates": [1.0, 1.0, 1.0],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": false
}
"""


def test_a_ballot_drawn_again_after_a_lost_disk() -> None:
    replay(PLAN)
