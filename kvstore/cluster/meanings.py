"""What the numbers of a server mean: for `paxon status --counters` and the metrics' help."""

from __future__ import annotations

__all__ = ["COUNTED", "GAUGES", "meaning_of"]

GAUGES = {
    "watches": "Watches that this server keeps.",
    "log_slots": "Slots kept in memory.",
    "log_bytes": "Bytes of the values of slots kept in memory.",
    "session_reply_bytes": "Bytes of replies kept for clients that have not acknowledged them.",
    "client_requests_waiting": "Requests of clients that wait for their turn.",
    "keys": "Keys in the store.",
    "leases": "Leases in the store.",
    "revision": "The store's revision.",
    "oldest_revision": "The oldest revision that can be read or watched from.",
}
"""Of `StatusReply.counters` those that may fall, as may the figures of a machine of one's own."""

COUNTED = {
    "elections": "Candidacies of this server.",
    "pre_votes": "Times that it asked whether others have lost the leader, too.",
    "phase1_rounds": "Times that it began phase 1; the same as elections.",
    "preemptions": "Times that a higher ballot ended leading, or trying to.",
    "leaderships": "Times that it took over the lead.",
    "step_downs": "Times that it stopped leading, for whatever reason.",
    "handovers": "Times that it let another server lead, asked to or before it stopped.",
    "leading_us": "Microseconds of leading.",
    "p2a_sent": "P2As sent as leader, repetitions not counted.",
    "p2b_rejected": "P2As of a ballot below the one promised here.",
    "slots_proposed": "Slots proposed as leader, those taken over included.",
    "slots_chosen": "Slots that this server counted a majority for.",
    "slots_executed": "Slots executed since the start, replayed ones included.",
    "commands_executed": "Commands in the slots executed.",
    "queries_answered": "Reads answered.",
    "read_rounds": "Rounds of heartbeats begun because reads waited for one.",
    "lease_reads": "Reads answered on the strength of a lease.",
    "syncs": "Transactions on the disk.",
    "bursts": "Steps of the server: all that was received in one go.",
    "peer_messages_received": "Messages of other servers.",
    "client_messages_received": "Messages of clients.",
    "retransmissions": "P2As sent again, for their votes were missing.",
    "catch_ups": "Times that it asked another server for slots that it missed.",
    "snapshots_taken": "Snapshots of its own.",
    "snapshots_received": "Snapshots taken over from other servers.",
    "refused_incarnations": "Frames of a member that came with another disk.",
    "refused_clients": "Frames of clients of another cluster.",
    "refused_rejoins": "Attempts to take the place of a member that is alive.",
    "refused_numbers": "Messages with a number out of bounds (docs/design/numbers.md).",
    "refused_connections": "Connections closed because there were too many.",
    "malformed_messages": "Messages that contradict themselves.",
    "malformed_frames": "Frames that could not be read.",
    "foreign_frames": "Frames of another cluster, release or sender than may speak here.",
    "foreign_introductions": "Introductions of servers of another cluster that is in force.",
    "oversized_frames": "Frames above the largest size.",
    "dropped_frames": "Frames to other servers that did not fit into their queue.",
    "dropped_replies": "Frames to clients that did not read, or are gone.",
    "handshake_failures": "Connections that broke before they came about, wrong keys among them.",
    "disconnects": "Connections that ended.",
    "frames_sent": "Frames sent.",
    "frames_received": "Frames received.",
    "messages_sent": "Messages in the frames sent.",
    "messages_received": "Messages in the frames received.",
    "bytes_sent": "Bytes of the frames sent.",
    "bytes_received": "Bytes of the frames received.",
    "inquiries": "Times that hashes of what was executed differed and were looked into.",
    "digest_alarms": "Times that servers were found to have executed different things.",
    "commits_denied": "Times that a majority held less than was told to be chosen.",
    "overloaded": "Requests that were refused for a bound.",
    "renewals": "Requests to let leases live on.",
    "times_proposed": "Slots proposed for their time alone.",
    "without_room": "Values of others that did not fit on the disk (docs/design/full-disks.md).",
    "wake_ups": "Times that the state machine was woken.",
    "failed_wake_ups": "Times that the state machine raised when it was woken.",
    "watches_answered": "Answers to watches.",
}
"""Those that only rise, since the server's start."""


def meaning_of(name: str) -> str:
    """A sentence on a number; one of a state machine's own `figures` is called by its name."""
    known = COUNTED.get(name) or GAUGES.get(name)
    return known or f"{name.replace('_', ' ').capitalize()}, as the state machine says."
