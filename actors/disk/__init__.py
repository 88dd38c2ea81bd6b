"""A server's durable data, and the engines that keep it.

Read `storage` (the interface, and what every engine refuses), `memory_storage` (the shortest
engine); then the one for users: `data_directory`, `sqlite_format`,
`sqlite_storage`; `room`, of which there may be little, and `snapshot_files`. The protocol knows
`storage` alone (docs/design/storage.md).
"""

from __future__ import annotations

__all__: list[str] = []
