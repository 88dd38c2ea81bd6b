"""The command of docs/design/overload.md measures something."""

from __future__ import annotations

import pytest

from tests.faults.flooding.shares import main


def test_the_share_beside_a_flood_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puts of 1", "--seconds", "0.05"]) == 0
    alone, beside, _, _, elections = capsys.readouterr().out.splitlines()[1].split()[-5:]
    assert 0 < int(beside) < 0.8 * int(alone)
    assert elections == "0"
