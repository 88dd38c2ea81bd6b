"""The log was never cut again.

A server that took over a snapshot told the others that it had durably executed only what it had
before, until its next commit. In an idle cluster there is none, so they kept their logs for it.

Found by the simulator, cut down by it from seed 1019.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 1019,
  "steps": 968,
  "servers": 7,
  "policy": "random",
  "settings": {
    "window": 2,
    "heartbeat_interval": 0.1,
    "election_timeout_min": 0.12,
    "election_timeout_max": 0.3,
    "transfer_bytes": 1,
    "retain_slots": 3,
    "snapshot_slots": 3
  },
  "network": {
    "latency": 0.0005,
    "drop": 0.01,
    "duplicate": 0.01,
    "straggle": 0.1,
    "straggle_time": 0.01,
    "ghost_time": 0.0,
    "ordered": true,
    "moving": false,
    "split": false,
    "service": 0.002,
    "sync": 0.001
  },
  "clients": {
    "clients": 3,
    "outstanding": 1,
    "think": 0.1,
    "patience": 30.0,
    "keys": 1,
    "weights": {
      "get": 2,
      "append": 1,
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
    [141, "isolate", 0, 1.242, 0.3495, 236]
  ],
  "clock_rates": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
}
"""


def test_snapshot_reported_at_once() -> None:
    replay(PLAN)
