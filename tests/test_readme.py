"""The README says what is so: its blocks run as written, and its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from paxon.kvstore.cli.commands import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.process
@pytest.mark.parametrize("number", range(4))
def test_python_blocks_run_as_written(number: int, tmp_path: Path) -> None:
    assert len(blocks("python")) == 4
    script = tmp_path / "block.py"
    script.write_text(blocks("python")[number], encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAXON_")}
    finished = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", TEXT))
    assert {"demo", "test", "bench"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_commands_of_the_table_exist() -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    known = set(command.commands)
    rows = re.findall(r"^\| (`paxon .*?) \|", TEXT, re.MULTILINE)
    assert rows
    for row in rows:
        names = [words.split()[-1] for words in re.findall(r"`((?:paxon )?[a-z]+)", row)]
        assert names[0] in known, row
        if names[0] != "bench":
            assert set(names) <= known, row
