"""Two late servers had a whole snapshot and never took it over.

A member that did not answer (it refused the rejoining one's new directory) was waited for; then the
snapshot was asked for again, offered with other vouchers, and checked anew.

Found by the simulator (seed 2000238 of 1,000 steps) and cut down by it.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 2000238,
  "steps": 937,
  "servers": 5,
  "policy": "backoff",
  "settings": {
    "window": 1,
    "heartbeat_interval": 0.02,
    "election_timeout_min": 0.12,
    "election_timeout_max": 1.0,
    "snapshot_slots": 10
  },
  "network": {
    "latency": 0.002,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.01,
    "ghost_time": 0.0,
    "ordered": false,
    "moving": false,
    "split": false,
    "service": 0.00005,
    "sync": 0.001
  },
  "clients": {
    "clients": 1,
    "outstanding": 5,
    "think": 0.002,
    "patience": 0.3,
    "keys": 1,
    "weights": {
      "get": 2,
      "put": 2,
      "delete": 1,
      "cas": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [53, "crash", 0, 1.4841, 0.7624, 12],
    [122, "slow_disk", 3, 0.5027, 0.7847, 18],
    [132, "jump_clock", 0, 0.5472, 0.7473, 50],
    [154, "jump_clock", 3, 0.7973, 0.9236, 60],
    [181, "slow_disk", 0, 0.9168, 0.5068, 54],
    [274, "bridge", 0, 1.8962, 0.8243, 20],
    [276, "slow_server", 0, 0.3161, 0.4034, 22],
    [279, "slow_server", 0, 0.7177, 0.7279, 34],
    [358, "isolate", 0, 0.8075, 0.4148, 54],
    [430, "jump_clock", 2, 0.2444, 0.4861, 26],
    [511, "lose_disk", 1, 0.1783, 0.6963, 20],
    [530, "leap", 0, 0.3053, 0.8296, 36],
    [930, "crash_all", 0, 0.483, 0.516, 20]
  ],
  "clock_rates": [1.214, 1.1359, 1.2364, 1.1959, 1.3439],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "made": true
}
"""


def test_a_snapshot_is_not_checked_for_ever() -> None:
    replay(PLAN)
