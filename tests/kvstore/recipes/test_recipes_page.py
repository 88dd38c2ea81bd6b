"""The pages for those who build on Paxon: their code runs, on a cluster in memory."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from paxon.testing import MemoryCluster

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize(
    ("name", "least"), [("recipes.md", 5), ("clients.md", 4), ("objects.md", 2), ("testing.md", 1)]
)
def test_the_pages_code_runs(
    name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= least
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    with MemoryCluster() as cluster, cluster.client() as kv:
        names = vars(script)
        names |= {"MemoryCluster": MemoryCluster, "here": cluster.client}
        for number, block in enumerate(blocks):
            code = re.sub(r"LocalCluster\(servers=3(?:, machine=)?", "MemoryCluster(", block)
            code = re.sub(r'\bClient\("tcp:[^)]*\)', "here()", code)
            names["kv"] = kv
            file = tmp_path / f"{number}.py"
            file.write_text(code, encoding="utf-8")  # a class's fields are read from its source
            exec(compile(code, file, "exec"), names)
        assert kv.leases() == []
