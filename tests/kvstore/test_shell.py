"""The store's commands do what they say and no more: on a cluster in memory."""

from __future__ import annotations

import json
from subprocess import CompletedProcess

import pytest

from paxon import Client
from paxon.kvstore.cli.exit_codes import NO_SUCH_KEY, USAGE
from paxon.testing import MemoryCluster
from tests.cluster.helpers import paxon_here


def test_they_touch_what_is_named_and_print_what_is_asked_for(
    cluster: MemoryCluster, kv: Client
) -> None:
    def run(*arguments: str) -> CompletedProcess[bytes]:
        return paxon_here(*arguments, "--cluster", cluster.addresses[0])

    kv.put("motto", "a")
    then = kv.put("mottos", "b")
    kv.put("mottos", "c")
    assert run("append", "motto", "x").stdout == b"" and kv.get("motto") == b"ax"
    found = json.loads(run("get", "motto", "--prefix", "--revision", f"{then}", "--json").stdout)
    assert [each["value"] for each in found] == ["a", "b"]
    assert json.loads(run("get", "motto", "--detail").stdout)["lease"] is None
    done = run("delete", "motto")
    assert (done.returncode, done.stdout) == (0, b"") and kv.get("mottos") == b"c"
    assert run("delete", "motto").returncode == NO_SUCH_KEY
    assert json.loads(run("delete", "m", "--prefix", "--json").stdout) == {"deleted": 1}
    done = run("compact", f"{then}")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("words", "why"), [("put 'x", "No closing quotation"), (" ", "it is empty")]
)
def test_a_transaction_that_cannot_be_read(words: str, why: str) -> None:
    done = paxon_here("txn", "--then", words)
    assert done.returncode == USAGE and why.encode() in done.stderr
