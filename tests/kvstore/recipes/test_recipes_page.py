"""docs/recipes.md: its code runs, on a cluster in memory."""

from __future__ import annotations

import re
from pathlib import Path

from paxon.testing import MemoryCluster

PAGE = Path(__file__).resolve().parents[3] / "docs" / "recipes.md"


def test_the_pages_code_runs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    with MemoryCluster() as cluster, cluster.client() as kv:
        names: dict[str, object] = {"kv": kv, "MemoryCluster": MemoryCluster}
        for block in blocks:
            code = block.replace("LocalCluster(servers=3)", "MemoryCluster()")
            exec(compile(code, str(PAGE), "exec"), names)
            names["kv"] = kv
        assert kv.leases() == []
