"""Is a recorded history of the key-value store linearizable? (docs/checks/histories.md)

from tests.linearizability import Recorder, check

result = check(recorder.operations())
assert result.verdict is Verdict.OK, result.explanation
"""

from __future__ import annotations

from tests.linearizability.checker import Result, Verdict, check
from tests.linearizability.history import (
    HistoryError,
    Kind,
    Operation,
    Recorder,
    dump_history,
    load_history,
)

__all__ = [
    "Operation",
    "Kind",
    "Recorder",
    "HistoryError",
    "load_history",
    "dump_history",
    "check",
    "Result",
    "Verdict",
]
