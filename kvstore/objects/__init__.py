"""Your own class, replicated (docs/objects.md).

Read `replicated` (what users write), `definition` (what is read off their class when it is defined)
with its parts `fields` (the state's annotations) and `carrying` (what can be carried, and how);
then the servers' side, `calls` (what travels) and `machine` (the state machine around an object)
with `moment` (time, chance and timers of the slot at hand) and `sampling` (what of the state is
compared); then the callers', `proxy`,
`async_proxy` and what both send, `requests`. `ready` has dict, set, list and counter.
"""

from __future__ import annotations

__all__: list[str] = []
