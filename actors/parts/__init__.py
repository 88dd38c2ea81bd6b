"""The work of a server besides agreeing on slots: parts with a state and handlers of their own.

A part is given what it needs and an outbox, handles the messages that concern it alone, and tells
the server what follows (`host` says what it asks of that). None knows a ballot or decides a slot:
the protocol is `server.py`.

`membership`: how the cluster came together, and its members. `reception`: whose request is next,
and for how long. `watches`: reads that wait for something to happen. `comparing`: whether all have
executed the same. `snapshotting`: snapshots, taken, sent and fetched. `embedded`: an application in
the same process. `status`: what a server says of itself; it only looks.
"""

from __future__ import annotations

__all__: list[str] = []
