"""Every example runs to its end and prints what its comments promise."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = {
    "quickstart.py": [
        "motto: b'fewer dictators, more quorums'",
        "nobody: None",
        "changed: True and again: False",
        "[('square/0998', b'996004'), ('square/0999', b'998001')]",
        "was killed; the next write took",
        "leader",
    ],
    "asyncio_client.py": [
        "1000 appends from 50 tasks",
        "b'0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,'",
        "visits to the front page: b'5'",
    ],
    "own_class.py": [
        "one: 1",
        "added up: 4951",
        "without its leader: 4951",
        "after a restart: b'fewer dictators' b'fewer dictators' None",
        "taken: sweep cook",
        "came back: sweep",
        "then: pop from empty list",
    ],
    "transactions.py": [
        "moved: True and both are of one revision: True",
        "left: 50",
        "before: {'alice': b'70', 'bob': b'30'}",
        "now: {'alice': b'50', 'bob': b'50'}",
        "unknown: True",
        "visits: 1",
    ],
    "coordination.py": [
        "held one after the other: ['a', 'b', 'c']",
        "led with fences that rise: 3",
        "at the party: [3, 3, 3] and afterwards: []",
        "came before anybody went on: [3, 3, 3]",
        "had worked before anybody left: [3, 3, 3]",
        "items done: 30 results: 30",
        "most urgent first: [b'now', b'later']",
        "hits: 3",
        "a dictionary: {'sky': 'blue'}",
    ],
    "embedded_counter.py": [
        "add 3 → 6",
        "total: 6",
        "add 4 → 10",
        "the leader is gone; total: 10",
        "add 5 → 15",
    ],
}


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


def lines_of(name: str, node: ast.stmt) -> int:
    """Of a class, all but docstring and empty ones; of a function, those that call a recipe."""
    made = {"party": "members", "counter": "increment"}.get(name, name)
    if isinstance(node, ast.ClassDef):
        said = (ast.get_docstring(node) or "").count("\n") + 1
        return len(re.findall(r"^.*\S", ast.unparse(node), re.MULTILINE)) - said
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return len(
        {
            call.lineno
            for call in calls
            if isinstance(call, ast.Attribute)
            and re.match(rf"kv\.{made}\b|item\.", ast.unparse(call))
        }
    )


def test_the_examples_take_the_lines_that_are_stated_and_no_more_than_others_do() -> None:
    nodes = {}
    for path in (EXAMPLES / "coordination.py", EXAMPLES / "own_class.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                nodes[node.name] = node
    page = (EXAMPLES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \| (?:kazoo|Py)", page, re.MULTILINE)
    assert len(rows) == 10
    for name, ours, theirs in rows:
        assert lines_of(name, nodes[name]) == int(ours) <= int(theirs), name


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    # Its own folder as the working directory, so that nothing of this repository is imported.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout
    assert "Traceback" not in done.stderr
