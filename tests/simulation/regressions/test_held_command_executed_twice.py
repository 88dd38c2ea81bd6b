"""A command took effect twice.

Where servers contend, a preempted server proposes its clients' commands again when it leads next.
The first proposal had been chosen by the other leader, and the session had expired since: the
second was answered "expired", which a client that sent its command once takes for "not executed",
and so it sent it again in a new session.

Found by the simulator, cut down by it from seed 2111.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

PLAN = r"""
{
  "seed": 2111,
  "steps": 297,
  "servers": 5,
  "policy": "random",
  "settings": {
    "contend": true,
    "heartbeat_interval": 0.1,
    "election_timeout_min": 0.12,
    "election_timeout_max": 2.0,
    "max_sessions": 1,
    "session_min_idle": 0.0
  },
  "network": {
    "latency": 0.01,
    "drop": 0.0,
    "duplicate": 0.1,
    "straggle": 0.02,
    "straggle_time": 0.5,
    "ghost_time": 2.0,
    "ordered": false,
    "moving": true,
    "split": true,
    "service": 0.0001,
    "sync": 0.001
  },
  "clients": {
    "clients": 5,
    "outstanding": 2,
    "think": 0.002,
    "patience": 30.0,
    "keys": 1,
    "weights": {
      "put": 4,
      "append": 3,
      "delete": 3,
      "cas": 3
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.5,
    "seek": 0.2,
    "roles": true,
    "duplicates": false
  },
  "faults": [],
  "clock_rates": [1.1539, 1.1651, 1.1885, 0.8052, 1.0017]
}
"""


def test_held_command_executed_twice() -> None:
    replay(PLAN)
