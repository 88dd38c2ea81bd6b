"""The store's commands do what they say and no more: on a cluster in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from paxon import Client
from paxon.kvstore.cli.exit_codes import NO_SUCH_KEY, NOT_AS_EXPECTED, USAGE
from paxon.testing import MemoryCluster
from tests.cluster.helpers import paxon_here

Run = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def run(cluster: MemoryCluster) -> Run:
    return lambda *arguments: paxon_here(*arguments, "--cluster", cluster.addresses[0])


def test_they_touch_what_is_named_and_print_what_is_asked_for(kv: Client, run: Run) -> None:
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


def test_a_transaction_prints_what_it_has_read(kv: Client, run: Run) -> None:
    kv.put_many({"a/1": "x", "a/2": "y"})
    reads = ("--then", "get a/1", "--then", "get b", "--then", "range prefix a/")
    assert run("txn", *reads).stdout == b"x\n(missing)\na/1\tx\na/2\ty\n"
    wanted = ("--if", "version a/1 = 1", *reads, "--then", "delete prefix a/", "--json")
    told = json.loads(run("txn", *wanted).stdout)
    first, second, found, deleted = told["results"]
    assert (first, second, deleted) == ({"value": "x"}, {"value": None}, 2)
    assert [each["value"] for each in found["entries"]] == ["x", "y"] and found["count"] == 2
    done = run("txn", *wanted)
    assert done.returncode == NOT_AS_EXPECTED and not json.loads(done.stdout)["succeeded"]


@pytest.mark.parametrize(
    ("words", "why"), [("put 'x", "No closing quotation"), (" ", "it is empty")]
)
def test_a_transaction_that_cannot_be_read(words: str, why: str) -> None:
    done = paxon_here("txn", "--then", words)
    assert done.returncode == USAGE and why.encode() in done.stderr
