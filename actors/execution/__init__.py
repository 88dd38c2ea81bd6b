"""Executing the log, alike on every server (rule 15).

Read `state_machine` (what users write), `sessions` (each command at most once), `timer` (waking a
machine at a time of the log), `application` (all of it together: what executes a slot), then what
keeps servers alike: `agreed` (what execution depends on), `machine_errors` (what a machine may do
wrong), `digests` (comparing what was executed).
"""

from __future__ import annotations

__all__: list[str] = []
