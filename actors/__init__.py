"""Multi-Paxos: ballots, messages, the log, durable state, election policies and `PaxosServer`."""

from __future__ import annotations

from paxon.actors.ballot import Ballot, ServerId
from paxon.actors.settings import Settings, SettingsError
from paxon.actors.state_machine import StateMachine

__all__ = ["Ballot", "ServerId", "Settings", "SettingsError", "StateMachine"]
