"""`python -m tests.linearizability FILE`: check a recorded history (docs/checks/histories.md)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.linearizability import HistoryError, Verdict, check, load_history

EXIT_CODES = {Verdict.OK: 0, Verdict.VIOLATION: 1, Verdict.UNDECIDED: 3}


def main() -> int:
    """Print the verdict; the exit code tells it too."""
    parser = argparse.ArgumentParser(prog="python -m tests.linearizability", description=__doc__)
    parser.add_argument("file", type=Path, help="the history, JSON lines")
    parser.add_argument("--seconds", type=float, default=60.0, help="give up after this long")
    arguments = parser.parse_args()
    try:
        with arguments.file.open(encoding="utf-8") as file:
            operations = load_history(file)
    except (OSError, UnicodeDecodeError, HistoryError) as error:
        print(f"{arguments.file} cannot be read as a history: {error}", file=sys.stderr)
        return 2
    result = check(operations, seconds=arguments.seconds)
    print(f"{len(operations)} operations: {result.verdict.value}")
    if result.explanation:
        print(result.explanation)
    return EXIT_CODES[result.verdict]


if __name__ == "__main__":
    sys.exit(main())
