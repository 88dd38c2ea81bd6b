"""A server that could not lead kept all others from leading.

Where servers contend, one whose missing slots had been discarded started phase 1 again at once
after each refusal, and each time began the transfer of the snapshot that it needed from another
server.

Found by the simulator, cut down by it from seed 156.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 156,
  "steps": 491,
  "servers": 3,
  "policy": "backoff",
  "settings": {
    "contend": true,
    "transfer_bytes": 1,
    "retain_slots": 10,
    "snapshot_slots": 10
  },
  "network": {
    "latency": 0.002,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.01,
    "ghost_time": 0.1,
    "ordered": true,
    "moving": true,
    "split": false,
    "service": 0.0001,
    "sync": 0.0001
  },
  "clients": {
    "clients": 1,
    "outstanding": 5,
    "think": 0.002,
    "patience": 0.3,
    "keys": 1,
    "weights": {
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
    [381, "isolate", 0, 1.3381, 0.4892, 4]
  ],
  "clock_rates": [1.0, 1.0, 1.0]
}
"""


def test_contender_that_is_behind() -> None:
    replay(PLAN)
