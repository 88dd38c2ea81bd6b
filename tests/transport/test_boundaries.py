"""The transport stands alone: it imports nothing else of Paxon."""

from __future__ import annotations

import subprocess
import sys

import paxon.transport


def test_it_imports_nothing_else_of_paxon() -> None:
    script = (
        "import sys, paxon.transport\n"
        "print(*(name for name in sys.modules if name.startswith('paxon.')))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "paxon.transport.endpoint" in printed
    assert all((name + ".").startswith("paxon.transport.") for name in printed)


def test_all_names_are_there() -> None:
    for name in paxon.transport.__all__:
        assert hasattr(paxon.transport, name)
    assert len(set(paxon.transport.__all__)) == len(paxon.transport.__all__)
