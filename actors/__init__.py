"""Multi-Paxos: ballots, messages, the log, durable state, election policies and `PaxosServer`.

Read `ballot`, `members`, `messages`, `log` (what `slot_values` are in it) and `log_time`
(rule 13), then `server`: the protocol in one file. It stands on `actor` (pykka, the burst, the
flush), on `outbox` (what a step sends) and on `records` (what a server knows: plain data), reaches
the world through `environment`, and asserts by `invariants`. `settings`, `election` (policies),
`codecs` and `embedding` are what their names say. `parts` is what goes on beside the
protocol, `disk` the storage, `execution` what runs the log, `limits` the bounds.
"""

from __future__ import annotations

from paxon.actors.ballot import NO_BALLOT, Ballot, ServerId
from paxon.actors.disk.storage import CorruptStorage, Storage, StorageError
from paxon.actors.election import ElectionPolicy, make_policy
from paxon.actors.embedding import Execute, NotLeading, ServerRef
from paxon.actors.environment import Environment
from paxon.actors.execution.agreed import Agreed, UnknownSetting
from paxon.actors.execution.state_machine import Limit, StateMachine
from paxon.actors.invariants import InvariantViolation
from paxon.actors.server import PaxosServer
from paxon.actors.settings import Settings, SettingsError

__all__ = [
    "PaxosServer", "StateMachine", "Limit", "Agreed", "UnknownSetting", "Settings", "SettingsError",
    "Environment", "Execute", "NotLeading", "ServerRef", "Ballot", "NO_BALLOT", "ServerId",
    "ElectionPolicy", "make_policy", "InvariantViolation", "Storage", "StorageError",
    "CorruptStorage",
]  # fmt: skip
