"""Plays tests/scenarios/*.txt: the whole transcript of each is the expectation.

After a change that is meant, `python -m tests.protocol.test_scenarios --rewrite` writes down what
happens now, and the diff of the texts shows what has changed for whom.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.protocol.narrator import ScenarioError
from tests.protocol.scenario import play, read, scenarios


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_a_scenario_goes_as_it_is_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert play(text) == text


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_a_scenario_begins_with_its_story(path: Path) -> None:
    story = read(path.read_text(encoding="utf-8"))[0]
    assert story.remarks
    assert story.commands == []
    assert len(" ".join(story.remarks)) > 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("campaign 1\n----\n", "begins with `servers`"),
        ("servers 3\nstart\ndance 1\n----\n", "'dance' is no command"),
        ("servers 3\nstart\ndeliver P1A\n----\n", "no such message is under way"),
        ("servers 3\nstart\ncampaign 7\n----\n", "KeyError"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        play(text)


def test_what_differs_from_the_text_is_noticed() -> None:
    text = scenarios()[0].read_text(encoding="utf-8")
    assert play(text.replace("promises", "does not promise", 1)) == text


def rewrite() -> None:
    """Write down what happens now."""
    for path in scenarios():
        text = path.read_text(encoding="utf-8")
        now = play(text)
        if now != text:
            path.write_text(now, encoding="utf-8")
            print(f"{path.name}: rewritten")


if __name__ == "__main__":
    if sys.argv[1:] != ["--rewrite"]:
        sys.exit("usage: python -m tests.protocol.test_scenarios --rewrite")
    rewrite()
