"""The tests that Python's clients of etcd bring along, run in front of Paxon.

Each passes, or is listed here with the reason why it does not. Much of their time they sleep, so
every suite is dealt out to several gateways, each with a cluster of its own; and what does little
else is left to `make soak`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxon import LocalCluster
from tests.etcd.tools import Gateway, binary, fetched, tools_directory
from tests.soak import sized

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]

HERE = Path(__file__).parents[1] / "suites"
SECONDS = 500
USERS = "no users are kept here: Auth is answered as not enabled"
ALARMS = "nothing raises an alarm here, a client neither"
NAMES = "wants its own servers' names, pifpaf1 and so on"
SNAPSHOT = "wants a file of etcd's own kind, which etcdctl then reads"
BROKEN = "is broken: it looks for a module that is not there (with a real etcd too)"
ASLEEP = (
    "test_lock_acquire_none", "test_lock_refresh", "test_lock_expire", "test_watch_prefix",
    "test_watch_key_with_revision_compacted", "test_watch_key", "test_watch_prefix_callback",
    "test_watch_key_prefix", "test_watch_key_once_with_delete_kind", "test_watch_huge_payload",
    "test_watch_key_once_with_put_kind", "test_replace_with_lease_success", "test_lease_expire",
    "test_watch_key_ignores_global_timeout", "test_watch_key_prefix_once_sequential",
    "test_sequential_watch_prefix_once", "test_watch_timeout_on_establishment",
)  # fmt: skip
"""Sleep for three to ten seconds each: left to the long run."""


class Suite(msgspec.Struct, frozen=True):
    """A client's tests."""

    folder: str
    environment: str
    tests: str
    passes: int
    """So many do."""
    parts: int
    """Gateways to deal it out to."""
    fails: dict[str, str] = {}
    """What does not pass, by the tests' last names, with the reason."""
    on_servers: tuple[str, ...] = ()
    """What wants three servers, of which it halts two."""


SUITES = [
    Suite(
        "etcd3-0.12.0", "old", "tests", 75, sized(2, 6),
        {
            "test_member_list": NAMES,
            "test_snapshot": SNAPSHOT,
            "test_create_alarm_all_members": ALARMS,
            "test_create_alarm_specific_member": ALARMS,
            "test_list_alarms": ALARMS,
            "test_disarm_alarm": ALARMS,
            "test_user_pwd_auth": BROKEN,
        },
        ("test_get_key_serializable", "test_get_prefix_serializable", "test_member_list"),
    ),
    Suite("etcd3gw-2.7.0", "new", "etcd3gw/tests", 39, sized(1, 3)),
    Suite(
        "aetcd-1.0.0", "new", "tests", 85, sized(2, 3),
        {
            "test_auth": USERS,
            "test_snapshot": SNAPSHOT,
            "test_create_alarm_all_members": ALARMS,
            "test_create_alarm_specific_member": ALARMS,
            "test_list_alarms": ALARMS,
            "test_disarm_alarm": ALARMS,
        },
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def directory() -> Path:
    """Where the suites are; skipped where they cannot be had."""
    binary("etcdctl")  # they call it
    fetched("suites", "suites/made-from")
    return tools_directory()


def environment(directory: Path, path: Path | None, port: int) -> dict[str, str]:
    """The variables by which the suites find etcd."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "PYTEST", "PAXON"))}
    programs = [*([str(path)] if path else []), str(directory / "root/usr/bin"), kept["PATH"]]
    url = f"http://127.0.0.1:{port}"
    return {
        **kept, "PATH": os.pathsep.join(programs), "PYTHONPATH": str(HERE), "ETCDCTL_API": "3",
        "TEST_ETCD_VERSION": "v3.4.23", "PYTHON_ETCD_HTTP_URL": url, "TEST_ETCD_HTTP_URL": url,
        "TOOZ_TEST_HTTP_URL": url, "TOOZ_TEST_ETCD_PORT": str(port),
    }  # fmt: skip


class Run:
    """One pytest for a part of a suite."""

    def __init__(
        self, directory: Path, suite: Suite, place: Path, port: int, path: Path | None, **part: Any
    ) -> None:
        place.mkdir()
        self._outcomes, self._output = place / "outcomes", place / "output"
        variables = environment(directory, path, port)
        variables["PAXON_SUITE"] = json.dumps({
            "outcomes": str(self._outcomes), "port": port, "examples": sized(3, 100),
            "asleep": sized(ASLEEP, ()), **part,
        })  # fmt: skip
        command = [
            str(directory / "suites" / suite.environment / "bin" / "python"), "-m", "pytest",
            "-p", "paxon_suite", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "ignore", "-q",
            "-o", "console_output_style=classic", suite.tests,
        ]  # fmt: skip
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=directory / "suites" / suite.folder, env=variables,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def outcomes(self) -> list[tuple[str, str, str]]:
        """Test, outcome and what is said of it, for each."""
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
        if not self._outcomes.exists():
            pytest.fail(self._output.read_text()[-3000:])
        return [tuple(json.loads(line)) for line in self._outcomes.read_text().splitlines()]


FINDS_FOLLOWERS = """
from paxon import Client

addresses, pids = {addresses!r}, {pids!r}
with Client(addresses) as kv:
    leaders = []
    while not leaders:
        leaders = [r for r in kv.status(timeout=5.0).values() if r.role == "leader"]
leader = max(leaders, key=lambda reply: reply.ballot).server
print(*(pid for server, pid in pids.items() if server != leader), sep="\\n")
"""


def halting(place: Path, cluster: LocalCluster) -> Path:
    """A `pgrep` that finds two of the three servers, not the one that leads when it is called.

    What was acknowledged a moment ago, another might not have heard of: a gateway is no member.
    """
    place.mkdir()
    pids = {row.server: row.pid for row in cluster.status()}
    script, program = place / "followers.py", place / "pgrep"
    script.write_text(FINDS_FOLLOWERS.format(addresses=cluster.addresses, pids=pids))
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{script}'\n")
    program.chmod(0o755)
    return place


def runs(directory: Path, suite: Suite, tmp_path: Path, ending: Any) -> Iterator[Run]:
    for part in range(suite.parts):
        gateway = ending.enter_context(Gateway())
        yield Run(
            directory, suite, tmp_path / str(part), gateway.port, None,
            part=part, of=suite.parts, only=(), without=suite.on_servers,
        )  # fmt: skip
    if suite.on_servers:
        cluster = ending.enter_context(LocalCluster(3, durability="memory", etcd=True))
        port = int(cluster.etcd_address.rpartition(":")[2])
        yield Run(
            directory, suite, tmp_path / "servers", port, halting(tmp_path / "bin", cluster),
            part=0, of=1, only=suite.on_servers, without=(),
        )  # fmt: skip


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.folder)
def test_each_passes_or_is_listed(directory: Path, suite: Suite, tmp_path: Path) -> None:
    with contextlib.ExitStack() as ending:
        all_runs = list(runs(directory, suite, tmp_path, ending))
        outcomes = [outcome for run in all_runs for outcome in run.outcomes()]
    failed = {
        test.rpartition("::")[2].partition("[")[0]: said
        for test, outcome, said in outcomes if outcome == "failed"
    }  # fmt: skip
    unexpected = {test: said for test, said in failed.items() if test not in suite.fails}
    assert not unexpected
    assert sorted(failed) == sorted(suite.fails), "what passes now is not to be listed"
    passed = sum(outcome in ("passed", "asleep") for _, outcome, _ in outcomes)
    assert passed == suite.passes
