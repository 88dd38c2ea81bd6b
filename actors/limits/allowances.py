"""How much one client, command, session or burst may take (docs/design/overload.md has the table).

What decides how a command ends is the same on every server: constants here that belong to the
format, and values of `Agreed`. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

from paxon.transport import MAX_FRAME_BYTES

__all__ = [
    "CHARGED_BYTES", "CLIENT_SECONDS", "COST_PER_SLOT", "ENTRY_BYTES", "EXECUTE_SECONDS",
    "EXECUTION_FACTOR", "FAILURE_BYTES", "FRAME_BYTES", "IN_FLIGHT_BYTES", "KEPT_SHARE",
    "LARGEST_REPLY", "LARGE_REPLY", "MAX_PENDING", "MAX_READS", "MAX_READ_BYTES", "MAX_RENEWALS",
    "MAX_RENEWAL_BYTES", "MAX_TRANSFER_BYTES", "MESSAGE_BYTES", "MESSAGE_SECONDS", "RETRY_AFTER",
    "RETRY_FOR_ROOM", "SECONDS_PER_BYTE", "SLOT_RENEWAL_BYTES", "SLOT_REPLIES",
    "SLOT_REPLIES_AT_MOST", "TRANSFERS_PER_PEER", "TURN_BYTES",
]  # fmt: skip

MESSAGE_BYTES = 64
"""What a message counts for besides its content, wherever bytes are counted."""
ENTRY_BYTES = 16
"""What an entry takes in a slot's value besides its command, about."""

RETRY_AFTER = 0.05
"""Seconds after which a client that was refused comes again, if no better time is known."""

RETRY_FOR_ROOM = 0.25
"""The same for what the disk has no room for: a snapshot has to be written first."""

# --- a burst -------------------------------------------------------------------------------------

CLIENT_SECONDS = 0.001
"""For so long a step serves clients; what is left waits in its client's queue for the next."""
EXECUTE_SECONDS = 0.05
"""For so long a step executes chosen slots (at least one); the others wait for the next step."""
FRAME_BYTES = 4 << 20
"""Messages for one receiver are split over frames of about this size, and a step whose replies
come to this much serves no more clients."""
IN_FLIGHT_BYTES = 4 << 20
"""Beyond this much in slots not yet chosen no further slot is proposed (one always may be)."""
TRANSFERS_PER_PEER = 4 << 20
"""Log and snapshot pieces that one peer is sent in a step; it asks again for the rest."""
MAX_TRANSFER_BYTES = MAX_FRAME_BYTES // 4
"""`transfer_bytes` and `batch_bytes` are at most this: a frame has room for a piece of the log, and
since its last value may overrun it, for the largest command."""

TURN_BYTES = 512 << 10
"""A client that has got so much into the log, in bytes or cost, lets others go first until it is
executed, and then for as long again; a burst with so much from clients is served in turns."""
CHARGED_BYTES = 128 << 10
"""The time that a slot of this size takes is charged to the clients whose commands fill it."""
SECONDS_PER_BYTE = 2e-9
"""What a byte of a large reply or command takes besides its handling, about; charged like time.
Half of it is encoding and ZeroMQ's thread here, half copying in the kernel and at the other end."""

MESSAGE_SECONDS = 1e-6
"""What a request takes besides its handling, about: it is decoded, and its answer encoded."""
EXECUTION_FACTOR = 3
"""What is executed here is executed by the followers then, and nothing is chosen meanwhile: so much
counts for what was executed that others have as much time again after that."""

MAX_PENDING = 16_384
"""While so many commands wait for a slot, clients' further requests wait in their own queues."""
MAX_READS, MAX_READ_BYTES = 16_384, 32 << 20
"""Reads that may wait to be confirmed, and their bytes."""
MAX_RENEWALS, MAX_RENEWAL_BYTES = 65_536, 16 << 20
"""Renewals that may wait for a slot, and their bytes: a budget of their own, so that no commands
keep leases from being renewed. A client gets a quarter at most, its share once all is taken."""

# --- a slot and what it leaves behind (the same on every server) ---------------------------------

SLOT_RENEWAL_BYTES = 16 << 10
"""So many bytes of renewals go into a slot (at least one): some thousand leases. Between two
such slots commands have as much time to themselves."""
COST_PER_SLOT = 64 << 20
"""Commands are packed into one slot up to this cost (see `StateMachine.cost`), and one alone that
would cost more is refused."""

SLOT_REPLIES = 32 << 20
"""Once the replies of one slot come to this, sessions that had a large one in it have to wait for a
later slot (their commands are answered OVERLOADED and leave no trace) …"""
SLOT_REPLIES_AT_MOST = 4 * SLOT_REPLIES
"""… and at this all others too."""
LARGEST_REPLY = 31 << 20
"""What a state machine answers beyond this does not fit into a frame, bytes."""
LARGE_REPLY = 64 << 10
"""From this size on a reply is a large one."""
FAILURE_BYTES = 4 << 10
"""What the text of a command's exception counts for in a reply, however long it is."""
KEPT_SHARE = 64 << 10
"""When `Agreed.max_kept` is reached, sessions with less than this kept still go on."""
