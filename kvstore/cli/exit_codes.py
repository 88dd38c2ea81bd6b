"""What exit codes tell apart, alike for all commands (docs/running/local-cluster.md)."""

from __future__ import annotations

from paxon.kvstore.errors import InvalidRequest, Overloaded, RequestTimeout

__all__ = [
    "FAILED",
    "NOT_AS_EXPECTED",
    "NO_SUCH_KEY",
    "OK",
    "OUTCOME_UNKNOWN",
    "TABLE",
    "UNAVAILABLE",
    "USAGE",
    "code_of",
]

OK = 0
FAILED = 1
USAGE = 2
NO_SUCH_KEY = 3
NOT_AS_EXPECTED = 4
UNAVAILABLE = 5
OUTCOME_UNKNOWN = 6

TABLE = """Exit codes: 0 success; 1 failed (a port or directory in use, a full disk, refused by the
leader or the state machine, something wrong in status, a lock lost); 2 wrong usage; 3 no such key,
no leader; 4 not as expected (cas, txn, lease), not to be had in time (lock, election); 5
unavailable: no answer in time, nothing was changed; 6 outcome unknown: no answer in time, the write
may have taken effect; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP. lock and election pass on that of their
command."""
"""For `paxon --help`."""


def code_of(error: Exception) -> int:
    """The exit code of an error that a client raised."""
    if isinstance(error, InvalidRequest):
        return USAGE
    if isinstance(error, RequestTimeout):
        return OUTCOME_UNKNOWN if error.unknown else UNAVAILABLE
    return UNAVAILABLE if isinstance(error, Overloaded) else FAILED
