"""Shells complete the command and its options; what typer makes for each is run, or asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.helpers import environment, paxon

pytestmark = pytest.mark.process


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    script = paxon(env=environment(_PAXON_COMPLETE="source_bash")).stdout.decode()
    (tmp_path / "paxon").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m paxon.kvstore.cli "$@"\n', encoding="utf-8"
    )
    (tmp_path / "paxon").chmod(0o755)
    script += """
        PATH="$1:$PATH"
        for words in "paxon elec" "paxon lock --lim"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _paxon_completion paxon
            echo "${COMPREPLY[@]}"
        done
        complete -p paxon
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(tmp_path)],
        capture_output=True, env=environment(), timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["election", "--limit"] and "_paxon_completion" in lines[2]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_scripts_ask_for_what_we_answer(shell: str) -> None:
    """Those shells are not there to run them: the variables that they set are taken from them."""
    script = paxon(env=environment(_PAXON_COMPLETE=f"source_{shell}")).stdout.decode()
    asked = {"_PAXON_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "paxon lo"}
    if shell == "fish":
        asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    for name, value in asked.items():
        assert name in script and (value in script or name == "_TYPER_COMPLETE_ARGS")
    answer = paxon(env=environment(**asked)).stdout.decode()
    assert "lock" in answer and "Run a command while a lock is held" in answer
