"""Hosts as they are: IPv6 alone, names that move, addresses that are translated."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from paxon.kvstore.client.addresses import free_ports, hold_ports
from paxon.kvstore.client.keys import secure_with
from paxon.kvstore.client.links import Secure
from paxon.kvstore.cluster.status import agreed_leader, look_around
from paxon.kvstore.recipes.clients import Client
from paxon.transport import CurveKeys
from tests.cluster.belonging.test_names import WITH_HOSTS, no_other_names
from tests.cluster.helpers import PAXON, environment, paxon_here
from tests.faults.networks.namespaces import Switch, inside, ip, no_namespaces
from tests.faults.networks.nat import INSIDE, Translator, translated
from tests.faults.networks.network import MAIN
from tests.transport.test_names import no_ipv6
from tests.waiting import wait_until

pytestmark = pytest.mark.process

PATIENCE = 60.0
THREE = (1, 2, 3)


class Processes:
    """Servers of one cluster file, started by whatever command comes before."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, server: int, *prefix: str) -> None:
        with (self.file.parent / f"{server}.out").open("ab") as output:
            self.running[server] = subprocess.Popen(
                [*prefix, *PAXON, "server", "--cluster", str(self.file), "--id", str(server)],
                stdout=output, stderr=output, env=environment(),
            )  # fmt: skip

    def kill(self, server: int) -> None:
        process = self.running.pop(server)
        process.kill()
        process.wait()

    def end(self) -> None:
        for server in list(self.running):
            self.kill(server)


def write_file(path: Path, entries: dict[int, str]) -> Path:
    text = '[cluster]\nid = "hosts"\n'
    for server, entry in entries.items():
        text += f'[[server]]\nid = {server}\ndirectory = "server-{server}"\n{entry}\n'
    path.write_text(text, encoding="utf-8")
    return path


def who_leads(addresses: dict[int, str], secure: Secure | None = None) -> int:
    found: list[int] = []

    def known() -> bool:
        rows = look_around(addresses, 5.0, secure)
        leader = agreed_leader({row.server: row.reply for row in rows if row.reply})
        found.extend([] if leader is None else [leader])
        return bool(found)

    wait_until(known)
    return found[0]


def test_a_cluster_on_ipv6_alone_with_keys(tmp_path: Path) -> None:
    if no_ipv6():
        pytest.skip(no_ipv6())
    ports = free_ports(9)
    entries, keys = {}, {}
    for server, (peer, client, metrics) in zip(
        THREE, zip(*[iter(ports)] * 3, strict=True), strict=True
    ):
        pair = CurveKeys.load_or_generate(tmp_path / f"server-{server}.key")
        keys[f"tcp://[::1]:{client}"] = pair.public
        entries[server] = (
            f'host = "::1"\npeer_port = {peer}\nclient_port = {client}\n'
            f'metrics = "[::1]:{metrics}"\npublic_key = "{pair.public}"'
        )
    file = write_file(tmp_path / "cluster.toml", entries)
    cluster = ("--cluster", str(file))
    processes = Processes(file)
    with ExitStack() as stack:
        for held in hold_ports(ports):
            stack.callback(held.close)
        stack.callback(processes.end)
        for server in THREE:
            processes.start(server)
        with Client(list(keys), timeout=PATIENCE, secure=secure_with(keys)) as client:
            client.put("motto", "by IPv6")
            first = who_leads(dict(zip(THREE, keys, strict=True)), secure_with(keys))
            processes.kill(first)
            client.put("motto", "still by IPv6")
        found = paxon_here("get", "motto", *cluster, "--timeout", "60")
        assert found.stdout == b"still by IPv6"
        processes.start(first)
        wait_until(lambda: paxon_here("status", *cluster).returncode == 0)

        def lives() -> bool:  # (its door opens after the ports)
            with suppress(OSError), urlopen(f"http://[::1]:{ports[2]}/health/live") as found:
                return bool(found.status == 200)
            return False

        wait_until(lives)


ASKING = """
import sys
from paxon import Client
with Client(sys.argv[1].split(","), timeout=60) as client:
    for line in sys.stdin:
        client.append("said", line.rstrip("\\n"))
        print(client.get("said").decode(), flush=True)
"""


@pytest.fixture
def asking(tmp_path: Path) -> tuple[Path, list[str]]:
    """A file of hosts' names, and what runs a command that goes by it."""
    if no_other_names():
        pytest.skip(no_other_names())
    hosts = tmp_path / "hosts"
    return hosts, [*WITH_HOSTS, str(hosts)]


def say(asker: subprocess.Popen[str], word: str) -> str:
    assert asker.stdin is not None and asker.stdout is not None
    asker.stdin.write(f"{word}\n")
    asker.stdin.flush()
    return asker.stdout.readline().strip()


def test_names_are_looked_up_again_when_all_of_them_have_moved(
    tmp_path: Path, asking: tuple[Path, list[str]]
) -> None:
    """Every server moves to another address, one by one; a client that is silent meanwhile knows
    names only, and finds them there. So do the servers each other."""
    hosts, prefix = asking
    ports = free_ports(6)
    names = {server: f"host-{server}.test" for server in THREE}
    at = {server: f"127.0.7.{server}" for server in THREE}

    def tell() -> None:
        lines = ["127.0.0.1 localhost", *(f"{at[s]} {names[s]}" for s in THREE)]
        hosts.write_text("\n".join(lines) + "\n")

    tell()
    entries = {}
    for server, (peer, client) in zip(THREE, zip(*[iter(ports)] * 2, strict=True), strict=True):
        entries[server] = f'host = "{names[server]}"\npeer_port = {peer}\nclient_port = {client}'
    file = write_file(tmp_path / "cluster.toml", entries)
    addresses = ",".join(f"{names[s]}:{ports[2 * s - 1]}" for s in THREE)
    processes = Processes(file)
    with ExitStack() as stack:
        for held in hold_ports(ports):
            stack.callback(held.close)
        stack.callback(processes.end)
        for server in THREE:
            processes.start(server, *prefix)
        asker = subprocess.Popen(
            [*prefix, sys.executable, "-c", ASKING, addresses],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        stack.enter_context(asker)
        stack.callback(asker.kill)
        assert say(asker, "one") == "one"
        for server in THREE:
            processes.kill(server)
            at[server] = f"127.0.8.{server}"
            tell()
            processes.start(server, *prefix)

            def level(server: int = server) -> bool:
                rows = look_around({s: f"tcp://{at[s]}:{ports[2 * s - 1]}" for s in THREE}, 5.0)
                replies = [row.reply for row in rows if row.reply is not None]
                return (
                    len(replies) == 3
                    and not any(reply.waits_for for reply in replies)
                    and len({reply.executed for reply in replies}) == 1
                    and any(reply.role == "leader" for reply in replies)
                )

            wait_until(level)
        assert say(asker, " two") == "one two"


def test_servers_behind_address_translation(tmp_path: Path) -> None:
    """Each one binds an inside address, the same for all, and is known by an outside one with other
    ports (`peer_bind`, `client_bind`)."""
    if no_namespaces():
        pytest.skip(no_namespaces())
    with Switch([MAIN, *THREE]) as switch, ExitStack() as stack:
        outside = {s: switch.address(s) for s in THREE}
        entries = {
            s: f'peer = "tcp://{outside[s]}:17110"\nclient = "tcp://{outside[s]}:17111"\n'
            f'peer_bind = "tcp://{INSIDE}:7110"\nclient_bind = "tcp://{INSIDE}:7111"'
            for s in THREE
        }
        homes = {}
        for server in THREE:
            homes[server] = translated(switch, str(server), outside.values())
            stack.callback(ip, "netns", "delete", homes[server])
        ways = {}
        for server, home in homes.items():
            router = switch.namespace(server)
            for port in (7110, 7111):
                ways[router, outside[server], 10_000 + port] = (home, INSIDE, port)
                for address in outside.values():  # (its own, too: hairpin)
                    ways[home, address, 10_000 + port] = (router, address, 10_000 + port)
        stack.callback(Translator(ways).close)
        processes = Processes(write_file(tmp_path / "cluster.toml", entries))
        stack.callback(processes.end)
        for server in THREE:
            inside(homes[server], lambda server=server: processes.start(server))  # type: ignore[misc]
        inside(switch.namespace(MAIN), lambda: _use(processes, outside, homes))


def _use(processes: Processes, outside: dict[int, str], homes: dict[int, str]) -> None:
    clients = {server: f"tcp://{address}:17111" for server, address in outside.items()}
    with Client(list(clients.values()), timeout=PATIENCE) as kv:
        kv.put("k", "translated")
        leader = who_leads(clients)
        processes.kill(leader)
        kv.put("k", "by the next leader")
        inside(homes[leader], lambda: processes.start(leader))

        def level() -> bool:
            replies = [row.reply for row in look_around(clients, 5.0) if row.reply is not None]
            return len(replies) == 3 and len({reply.executed for reply in replies}) == 1

        wait_until(level)
        # Sent to the leader by one that does not lead: the address that it names is an outside one.
        for address in clients.values():
            with Client(address, timeout=PATIENCE) as other:
                assert (other.get("k") or b"").startswith(b"by the next leader")
                other.append("k", "!")

    def all_say_the_same() -> bool:
        said = [row.reply.addresses for row in look_around(clients, 5.0) if row.reply]
        return len(said) == 3 and all(addresses == clients for addresses in said)

    wait_until(all_say_the_same)
