"""A server whose disk was lost never got its vote back.

Its forced P1A deposed the leader. Others who had just heard that leader answered only when asked
again, and until then the leader was back in a higher ballot: so it went each time.

Found by the simulator (seeds 78 and 218 of 400 steps) once refused old copies were remedied by
--rejoin too.
"""

from __future__ import annotations

import pytest

from tests.simulation.regressions.replay import replay

THREE = r"""
{
  "seed": 78,
  "steps": 400,
  "servers": 3,
  "policy": "stable",
  "settings": {
    "leases": true,
    "window": 1,
    "retransmit_interval": 0.1,
    "backoff_base": 0.05,
    "contend": false,
    "heartbeat_interval": 0.02,
    "election_timeout_min": 0.12,
    "election_timeout_max": 0.3,
    "transfer_bytes": 1000,
    "retain_slots": 30,
    "snapshot_slots": 10,
    "thrifty_delay": 0.0
  },
  "network": {
    "latency": 0.002,
    "drop": 0.05,
    "duplicate": 0.0,
    "straggle": 0.02,
    "straggle_time": 0.1,
    "ghost_time": 0.1,
    "ordered": false,
    "moving": false,
    "split": false,
    "service": 0.00005,
    "sync": 0.001
  },
  "clients": {
    "clients": 2,
    "outstanding": 1,
    "think": 0.002,
    "patience": 0.3,
    "keys": 5,
    "weights": {
      "get": 4,
      "put": 4,
      "append": 1,
      "delete": 1,
      "cas": 0,
      "scan": 0
    },
    "lease": 0.5,
    "stale": 0.0,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": true,
    "duplicates": true
  },
  "faults": [
    [
      46,
      "cut_two_way",
      0,
      0.1999,
      0.2246,
      2
    ],
    [
      78,
      "old_copy",
      0,
      0.6172,
      0.1685,
      14
    ],
    [
      96,
      "sever",
      0,
      0.8102,
      0.0,
      0
    ],
    [
      102,
      "isolate",
      0,
      0.7611,
      0.0526,
      6
    ],
    [
      186,
      "old_copy",
      0,
      0.5729,
      0.3022,
      12
    ],
    [
      194,
      "old_copy",
      0,
      0.11,
      0.3543,
      8
    ],
    [
      303,
      "isolate",
      0,
      0.7879,
      0.7146,
      12
    ],
    [
      390,
      "old_copy",
      1,
      0.1092,
      0.8891,
      4
    ],
    [
      390,
      "old_copy",
      2,
      0.1092,
      1.0,
      0
    ]
  ],
  "clock_rates": [
    1.0,
    1.0,
    1.0
  ],
  "clock_range": [
    0.95,
    1.05
  ],
  "lease_in_use": 0.0,
  "own": [
    [
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.45,
        "max_clock_drift": 0.2,
        "policy": "backoff",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 1.2,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": true
      },
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.36,
        "max_clock_drift": 0.05,
        "policy": "random",
        "leases": true,
        "contend": true
      }
    ],
    [
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 3.0,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.36,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": true
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.144,
        "max_clock_drift": 0.05,
        "policy": "random",
        "leases": true,
        "contend": false
      }
    ],
    [
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.9,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 1.2,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      }
    ]
  ],
  "made": true
}
"""

FIVE = r"""
{
  "seed": 218,
  "steps": 400,
  "servers": 5,
  "policy": "stable",
  "settings": {
    "leases": true,
    "window": 4,
    "retransmit_interval": 0.3,
    "backoff_base": 0.01,
    "contend": false,
    "election_timeout_min": 0.12,
    "election_timeout_max": 0.3,
    "thrifty_delay": 0.0
  },
  "network": {
    "latency": 0.0005,
    "drop": 0.2,
    "duplicate": 0.0,
    "straggle": 0.4,
    "straggle_time": 0.01,
    "ghost_time": 0.1,
    "ordered": false,
    "moving": true,
    "split": false,
    "service": 0.00005,
    "sync": 0.0001
  },
  "clients": {
    "clients": 5,
    "outstanding": 1,
    "think": 0.1,
    "patience": 30.0,
    "keys": 1,
    "weights": {
      "get": 4,
      "put": 1,
      "append": 1,
      "delete": 1,
      "cas": 1,
      "scan": 0
    },
    "lease": 1.0,
    "stale": 0.1,
    "ordered": 0.0,
    "seek": 0.2,
    "roles": false,
    "duplicates": true
  },
  "faults": [
    [
      10,
      "change_settings",
      0,
      0.0,
      0.2847,
      141
    ],
    [
      12,
      "lose_disk",
      1,
      0.0374,
      0.5133,
      40
    ],
    [
      63,
      "change_settings",
      0,
      0.0,
      0.736,
      170
    ],
    [
      160,
      "old_copy",
      5,
      0.606,
      0.2164,
      28
    ],
    [
      166,
      "change_settings",
      0,
      0.0,
      0.9427,
      138
    ],
    [
      195,
      "old_copy",
      0,
      0.4606,
      0.9322,
      56
    ]
  ],
  "clock_rates": [
    1.0244,
    1.0067,
    1.0075,
    1.0219,
    1.0407
  ],
  "clock_range": [
    0.95,
    1.05
  ],
  "lease_in_use": 0.0,
  "own": [
    [
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.36,
        "max_clock_drift": 0.2,
        "policy": "backoff",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.2,
        "policy": "stable",
        "leases": true,
        "contend": true
      },
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.9,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      }
    ],
    [
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": true,
        "contend": true
      },
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.9,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.36,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      }
    ],
    [
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 1.2,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": false,
        "contend": false
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 1.2,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": true
      }
    ],
    [
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 3.0,
        "max_clock_drift": 0.2,
        "policy": "random",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 1.0,
        "election_timeout_max": 3.0,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": true,
        "contend": true
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.05,
        "policy": "stable",
        "leases": true,
        "contend": true
      }
    ],
    [
      {
        "election_timeout_min": 0.3,
        "election_timeout_max": 0.36,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.144,
        "max_clock_drift": 0.05,
        "policy": "backoff",
        "leases": true,
        "contend": false
      },
      {
        "election_timeout_min": 0.12,
        "election_timeout_max": 0.18,
        "max_clock_drift": 0.2,
        "policy": "backoff",
        "leases": true,
        "contend": false
      }
    ]
  ],
  "made": false
}
"""


@pytest.mark.parametrize("plan", [THREE, FIVE], ids=["of three", "of five"])
def test_a_deposed_leader_is_not_back_before_the_rejoining_is_answered(plan: str) -> None:
    replay(plan)
