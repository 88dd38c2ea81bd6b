"""The state machine: the store's data, its operations, and how commands and replies look as bytes.

It knows nothing of Paxos, of clients or of the network: only `StateMachine`. Read `operations`
(the store's language, with `spans` of keys and `doubled`, what a transaction may not write twice),
then `store` (what each operation does). What it holds is in `state`: `items` by key, `key_index`
(keys in order), `history` and `leases`. Reading is `past` (views of older revisions), `ranges` and
`events`, and `watching` (whom an event concerns; `lately`: which keys have changed);
`transactions` are carried out as a whole; `queues` puts and claims items; `refusals` says how an
operation ends that cannot be; `image` is the state as a snapshot.
"""

from __future__ import annotations

__all__: list[str] = []
