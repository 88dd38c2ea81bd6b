"""A cluster file with host names that stand for an IPv6 and two IPv4 addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.cluster.helpers import PAXON, environment, wait_until, write_cluster_file

pytestmark = [pytest.mark.process, pytest.mark.slow]

HOSTS = "::1 both.test\n127.0.0.1 both.test\n127.0.0.9 both.test\n127.0.0.1 localhost\n"
WITH_HOSTS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts; exec "$@"')
"""Runs a command that finds other names, without changing them for anybody else."""


@cache
def no_other_names() -> str:
    """Why no process can be given names of its own here; "" if one can."""
    if shutil.which("unshare") is None:
        return "there is no unshare command"
    command = ["unshare", "--mount", "mount", "--bind", "/etc/hostname", "/etc/hostname"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return "mounting takes root's rights"
    return ""


@pytest.fixture(params=["all addresses", "the last alone"])
def named(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[list[str], str]]:
    """How to run a command that knows the name, and the servers' client addresses."""
    if no_other_names():
        pytest.skip(no_other_names())
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    prefix = [*WITH_HOSTS[:-1], WITH_HOSTS[-1], str(hosts)]
    file = write_cluster_file(tmp_path / "cluster.toml")
    text = file.read_text().replace("[[server]]", '[[server]]\nhost = "both.test"')
    if request.param == "the last alone":  # those before are dialled first, and refused
        text = re.sub(r"(peer|client)_port = (\d+)", r'\g<0>\n\1_bind = "tcp://127.0.0.9:\2"', text)
    file.write_text(text)
    ports = [line.split("=")[1].strip() for line in text.splitlines() if "client_port" in line]
    with ExitStack() as stack:
        for server in (1, 2, 3):
            with (tmp_path / f"server-{server}.out").open("wb") as output:
                process = subprocess.Popen(
                    [*prefix, *PAXON, "server", "--cluster", str(file), "--id", str(server)],
                    stdout=output, stderr=output, env=environment(), cwd=tmp_path,
                )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield prefix, ",".join(f"both.test:{port}" for port in ports)


def test_servers_and_clients_find_each_other_by_such_a_name(
    named: tuple[list[str], str],
) -> None:
    prefix, addresses = named

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*prefix, *PAXON, *arguments, "--cluster", addresses]
        return subprocess.run(
            command, capture_output=True, env=environment(), timeout=90, check=False
        )

    wait_until(lambda: run("put", "motto", "both").returncode == 0, "a write is answered", 90.0)
    read = run("get", "motto")
    assert read.stdout.strip() == b"both", read.stderr
    wait_until(lambda: run("status").returncode == 0, "status sees all three", 60.0)
