"""Reads a scenario, plays it, and writes it with what really happened.

A scenario is a text: a story in `#` lines, then blocks. A block is one or more commands, a line
`----`, and the transcript that is expected, up to the next empty line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.protocol.narrator import Narrator, ScenarioError

__all__ = ["FOLDER", "Block", "play", "read", "scenarios"]

FOLDER = Path(__file__).parent.parent / "scenarios"
RULE = "----"


@dataclass(slots=True)
class Block:
    """Commands, and what they bring about."""

    remarks: list[str]
    commands: list[str]
    transcript: list[str]

    def __str__(self) -> str:
        parts = [*self.remarks]
        if self.commands:
            parts += [*self.commands, RULE, *self.transcript]
        return "\n".join(parts)


def scenarios() -> list[Path]:
    """All scenarios, by name."""
    return sorted(FOLDER.glob("*.txt"))


def read(text: str) -> list[Block]:
    """Take a scenario apart."""
    blocks = []
    for part in text.strip("\n").split("\n\n"):
        lines = part.strip("\n").split("\n")
        remarks = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        cut = rest.index(RULE) if RULE in rest else len(rest)
        blocks.append(Block(remarks, rest[:cut], rest[cut + 1 :]))
    return blocks


def play(text: str) -> str:
    """The same scenario with what its commands really bring about. Raises `ScenarioError`."""
    played = []
    cluster: Narrator | None = None
    for block in read(text):
        lines: list[str] = []
        for command in block.commands:
            if cluster is None:
                cluster = _make(command)
                continue
            cluster.lines = lines
            cluster.obey(command)
        if block.commands and not lines:
            lines.append("nothing to tell")
        played.append(str(Block(block.remarks, block.commands, lines)))
    return "\n\n".join(played) + "\n"


def _make(line: str) -> Narrator:
    """`servers 3 policy=random window=2`: the first command of every scenario."""
    name, *words = line.split()
    if name != "servers" or not words:
        raise ScenarioError("a scenario begins with `servers` and their number")
    options: dict[str, object] = {"policy": "random"}
    options.update(_options(words[1:]))
    return Narrator(int(words[0]), **options)


def _options(words: list[str]) -> Iterator[tuple[str, object]]:
    for word in words:
        name, _, value = word.partition("=")
        yield name, int(value) if value.isdigit() else value
