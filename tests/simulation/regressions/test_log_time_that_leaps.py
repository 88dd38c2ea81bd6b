"""The log's time leapt over another's reign, and over a pause in which a slot was stamped.

Either way leases ended before their owners, who count from when they asked, took them for lost.

Found by the simulator's runs about coordination, from seeds 52 and 2090.
"""

from __future__ import annotations

from tests.simulation.regressions.replay import replay

OVER_A_REIGN = r"""
{
  "seed": 52,
  "steps": 800,
  "servers": 3,
  "policy": "backoff",
  "settings": {
    "leases": true,
    "window": 1,
    "retransmit_interval": 0.05,
    "backoff_base": 0.05,
    "contend": true,
    "batch_bytes": 200,
    "thrifty_delay": 0.0
  },
  "network": {
    "latency": 0.0005,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.5,
    "ghost_time": 2.0,
    "ordered": true,
    "moving": false,
    "split": true,
    "service": 0.002,
    "sync": 0.0001
  },
  "clients": {
    "clients": 2,
    "outstanding": 5,
    "think": 0.03,
    "patience": 30.0,
    "keys": 5,
    "weights": {
      "get": 2,
      "put": 1,
      "append": 1,
      "delete": 1,
      "cas": 1,
      "scan": 0
    },
    "lease": 1.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [
      176,
      "isolate",
      0,
      1.1998,
      0.7887,
      0
    ],
    [
      387,
      "isolate",
      0,
      1.3885,
      0.6782,
      2
    ],
    [
      611,
      "leap",
      1,
      0.9816,
      0.4629,
      4
    ],
    [
      795,
      "old_copy",
      1,
      0.6366,
      0.3456,
      4
    ],
    [
      795,
      "old_copy",
      2,
      0.6366,
      1.0,
      0
    ]
  ],
  "clock_rates": [
    0.9766,
    0.9968,
    1.0326
  ],
  "clock_range": [
    0.95,
    1.05
  ],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": false,
  "coordination": {
    "clients": 3,
    "errands": 2,
    "watches": 2,
    "think": 0.02,
    "patience": 5.0,
    "ttls": [
      500,
      2000
    ],
    "least_ttl": 200,
    "names": 1,
    "stalls": 0.0,
    "weights": {
      "lease": 2,
      "transact": 1,
      "compact": 2,
      "read": 2,
      "lock": 3
    },
    "short_history": true,
    "drift": true
  }
}
"""
OVER_A_PAUSE = r"""
{
  "seed": 2090,
  "steps": 1000,
  "servers": 5,
  "policy": "stable",
  "settings": {
    "leases": false,
    "window": 2,
    "retransmit_interval": 0.05,
    "backoff_base": 0.05,
    "contend": false,
    "heartbeat_interval": 0.1,
    "election_timeout_min": 0.12,
    "election_timeout_max": 0.3,
    "transfer_bytes": 100,
    "thrifty_delay": 0.0
  },
  "network": {
    "latency": 0.0005,
    "drop": 0.0,
    "duplicate": 0.0,
    "straggle": 0.0,
    "straggle_time": 0.5,
    "ghost_time": 0.0,
    "ordered": true,
    "moving": true,
    "split": true,
    "service": 0.002,
    "sync": 0.0001
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.03,
    "patience": 30.0,
    "keys": 2,
    "weights": {
      "get": 2,
      "put": 2,
      "append": 1,
      "delete": 3,
      "cas": 1,
      "scan": 1
    },
    "lease": 0.0,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [
      151,
      "sever",
      0,
      0.8956,
      0.1254,
      4
    ],
    [
      304,
      "sever",
      0,
      0.4005,
      1.0,
      28
    ],
    [
      346,
      "sever",
      0,
      0.4947,
      1.0,
      6
    ],
    [
      523,
      "isolate",
      0,
      0.8551,
      0.4139,
      28
    ],
    [
      636,
      "sever",
      4,
      0.3904,
      1.0,
      12
    ],
    [
      709,
      "sever",
      2,
      0.7267,
      1.0,
      16
    ],
    [
      921,
      "drift",
      0,
      0.9712,
      0.0,
      14
    ]
  ],
  "clock_rates": [
    1.0269,
    0.9508,
    1.0374,
    0.9963,
    0.9964
  ],
  "clock_range": [
    0.95,
    1.05
  ],
  "lease_in_use": 0.0,
  "own": [],
  "bounds": {},
  "made": true,
  "coordination": {
    "clients": 2,
    "errands": 1,
    "watches": 1,
    "think": 0.2,
    "patience": 0.5,
    "ttls": [
      300,
      600
    ],
    "least_ttl": 300,
    "names": 1,
    "stalls": 0.5,
    "weights": {
      "lease": 0,
      "transact": 0,
      "compact": 2,
      "read": 1,
      "lock": 3
    },
    "short_history": false,
    "drift": true
  }
}
"""


def test_the_logs_time_never_leaps_over_a_reign() -> None:
    replay(OVER_A_REIGN)


def test_the_logs_time_never_leaps_over_a_pause() -> None:
    replay(OVER_A_PAUSE)
