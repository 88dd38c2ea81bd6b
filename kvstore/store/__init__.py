"""The state machine: the store's data, its operations, and how commands and replies look as bytes.

It knows nothing of Paxos, of clients or of the network: only `StateMachine`. Read `operations`
(the store's language), then `store` (what each operation does) and `key_index` (keys in order).
"""

from __future__ import annotations

__all__: list[str] = []
