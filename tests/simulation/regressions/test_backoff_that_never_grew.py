"""Two candidates under `backoff` deposed each other for ever while a third server rejoined.

Winning phase 1 took back what the last preemption had added to the wait. So it never grew to the
time that choosing a slot takes on this slow a network.

Found by the simulator (seed 1000139 of 1,000 steps) and cut down by it.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 1000139,
  "steps": 515,
  "servers": 3,
  "policy": "backoff",
  "settings": {},
  "network": {
    "latency": 0.01,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.1,
    "ghost_time": 0.1,
    "ordered": true,
    "moving": true,
    "split": false,
    "service": 0.0001,
    "sync": 0.01
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.03,
    "patience": 1.0,
    "keys": 1,
    "weights": {
      "delete": 3
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.02,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [514, "lose_disk", 1, 0.1071, 0.6288, 14]
  ],
  "clock_rates": [1.0, 1.0, 1.0],
  "clock_range": [0.7, 1.4],
  "lease_in_use": 0.0,
  "own": [],
  "made": false
}
"""


def test_backoff_grows_until_somebody_gets_through() -> None:
    replay(PLAN)
