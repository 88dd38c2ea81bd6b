"""Cluster files and options: what is taken, in which order of precedence, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from paxon.actors import SettingsError
from paxon.actors.members import Member
from paxon.kvstore import KVStore
from paxon.kvstore.client.addresses import check_address, free_ports, split_addresses
from paxon.kvstore.cluster.cluster_file import ClusterDescription, ClusterFileError
from paxon.kvstore.cluster.node import MachineError, load_machine
from paxon.kvstore.cluster.options import (
    OptionError,
    from_environment,
    misspelt,
    parse_assignments,
)
from paxon.transport import CurveKeys
from tests.cluster.helpers import one_sentence, paxon, paxon_here

GOOD = """
[cluster]
id = "orders"
window = 8
heartbeat_interval = 0.1

[[server]]
id = 1

[[server]]
id = 2
host = "10.0.0.2"
peer_port = 9000

[[server]]
id = 3
peer = "tcp://[::1]:9100"
client = "tcp://paxon.example:9101"
client_bind = "tcp://*:9101"
directory = "/var/lib/paxon"
"""


def read(tmp_path: Path, text: str) -> ClusterDescription:
    path = tmp_path / "orders.toml"
    path.write_text(text, encoding="utf-8")
    return ClusterDescription.read(path)


def test_addresses_and_directories_have_defaults(tmp_path: Path) -> None:
    description = read(tmp_path, GOOD)
    assert description.id == "orders"
    first, second, third = description.servers.values()
    assert (first.peer, first.client) == ("tcp://127.0.0.1:7110", "tcp://127.0.0.1:7111")
    assert first.directory == str(tmp_path / "server-1")
    assert (second.peer, second.client) == ("tcp://10.0.0.2:9000", "tcp://10.0.0.2:7121")
    assert (third.peer_bind, third.client_bind) == ("tcp://[::1]:9100", "tcp://*:9101")
    assert third.directory == "/var/lib/paxon"


def test_a_plan_has_all_that_a_server_needs(tmp_path: Path) -> None:
    plan = read(tmp_path, GOOD).plan(2)
    assert plan.settings.cluster == "orders"
    assert plan.settings.servers == (1, 2, 3)
    assert plan.settings.client_addresses[3] == "tcp://paxon.example:9101"
    assert plan.peers[1] == "tcp://127.0.0.1:7110"
    assert plan.durability == "disk"


def test_a_description_survives_being_written_as_a_file(tmp_path: Path) -> None:
    description = read(tmp_path, GOOD)
    again = read(tmp_path, "\ufeff" + description.to_toml())  # (as some editors begin it)
    assert again == description


def test_keys_have_a_place_on_each_host(tmp_path: Path) -> None:
    text = GOOD.replace('id = "orders"', f'id = "orders"\nclient_keys = ["{KEY}"]')
    keys = {1: KEY, 2: KEY[5:] + KEY[:5], 3: KEY[10:] + KEY[:10]}
    for number, key in keys.items():
        text = text.replace(f"id = {number}\n", f'id = {number}\npublic_key = "{key}"\n')
    text = text.replace('directory = "/var', 'key_file = "/etc/paxon.key"\ndirectory = "/var')
    description = read(tmp_path, text)
    assert read(tmp_path, description.to_toml()) == description
    assert description.servers[1].key_file == str(tmp_path / "server-1.key")
    assert description.servers[3].key_file == "/etc/paxon.key"
    plan = description.plan(2)
    assert (plan.public_keys, plan.client_keys) == (keys, [KEY])


def test_who_joins_a_cluster_takes_it_as_its_servers_tell_it(tmp_path: Path) -> None:
    cluster = read(tmp_path, GOOD)
    known, told = (CurveKeys.generate().public for _ in range(2))
    servers = cluster.servers.items()
    cluster = replace(cluster, servers={s: replace(e, public_key=known) for s, e in servers})
    members = [
        Member(1, 1, peer="tcp://a:1", client="tcp://a:2", key=told),
        Member(3, 1, peer="tcp://b:1", client="tcp://b:2"),
        Member(2, 1, peer="tcp://c:1", client="tcp://c:2"),
        Member(5, 1),  # nobody knows where it is
    ]
    joining = cluster.joining(2, "orders", members)
    assert joining.servers[2] == cluster.servers[2]
    assert {server: (e.peer, e.peer_bind, e.client, e.client_bind, e.public_key)
            for server, e in joining.servers.items() if server != 2} == {
        1: ("tcp://a:1", "tcp://a:1", "tcp://a:2", "tcp://a:2", told),
        3: ("tcp://b:1", "tcp://b:1", "tcp://b:2", "tcp://b:2", known),
    }  # fmt: skip
    with pytest.raises(ClusterFileError, match="is of cluster 'orders', and the servers"):
        cluster.joining(2, "other", members)


def test_flag_goes_before_environment_before_file_before_default(tmp_path: Path) -> None:
    description = read(tmp_path, GOOD)
    variables = {"PAXON_WINDOW": "32", "PAXON_BATCH_BYTES": "1000"}

    def window(flags: dict[str, object], environment: dict[str, str]) -> int:
        return description.plan(1, flags, environment).settings.window

    assert window({"window": 64}, variables) == 64
    assert window({}, variables) == 32
    assert window({}, {}) == 8
    settings = description.plan(1, {}, variables).settings
    assert settings.batch_bytes == 1000
    assert settings.max_sessions is None  # what the cluster has agreed on
    assert description.plan(1, {}, {"PAXON_DURABILITY": "memory"}).durability == "memory"


def server(number: int, more: str = "") -> str:
    return f"[[server]]\nid = {number}\n{more}\n"


KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""From ZeroMQ's own documents on CURVE."""

BASE = '[cluster]\nid = "c"\n'

BAD = {
    "no cluster": (server(1), "table [cluster]"),
    "no cluster id": ("[cluster]\n" + server(1), "needs an id"),
    "no servers": (BASE, "[[server]]"),
    "nested too deep": (BASE + "x = " + "[" * 5000, "is not TOML: maximum recursion depth"),
    "a number without end": (BASE + "x = " + "1" * 5000, "is not TOML: Exceeds the limit"),
    "missing id": (BASE + server(1) + "[[server]]\npeer_port = 1\n", "number 2 has no id"),
    "duplicate id": (BASE + server(1) + server(1, "peer_port=9\nclient_port=8"), "id 1 occurs"),
    "id of a wrong type": (BASE + "[[server]]\nid = 'one'\n", "whole number from 1"),
    "id too large": (BASE + server(99), "ids run from 1 to 63"),
    "unknown table": (BASE + server(1) + "[servers]\n", "unknown key 'servers'"),
    "unknown option": (BASE + "windw = 1\n" + server(1), "did you mean 'window'?"),
    "option of a wrong type": (BASE + "window = 'wide'\n" + server(1), "must be a whole number"),
    "option out of range": (BASE + "window = 0\n" + server(1), "window must be above 0"),
    "unknown policy": (BASE + "policy = 'fast'\n" + server(1), "must be one of stable"),
    "rejoin": (BASE + "rejoin = true\n" + server(1), "--rejoin"),
    "unknown server key": (BASE + server(1, "prot = 3"), "server 1: unknown key 'prot'"),
    "bad address": (BASE + server(1, "peer = 'localhost'"), "is no address"),
    "bad port": (BASE + server(1, "peer_port = 99999"), "ports run from 1 to 65535"),
    "port of a wrong type": (BASE + server(1, "peer_port = '7'"), "must be a whole number"),
    "port and address": (BASE + server(1, "peer_port=7\npeer='tcp://a:7'"), "not both"),
    "host of a wrong type": (BASE + server(1, "host = 5"), "must be text"),
    "duplicate port": (BASE + server(1, "client_port = 7110"), "is given to server 1 (peer)"),
    "duplicate port of two": (
        BASE + server(1) + server(2, "client_port = 7111"),
        "is given to server 1 (client) and to server 2 (client)",
    ),
    "a port in two forms": (
        BASE + server(1, "host = '[::1]'") + server(2, "peer = 'tcp://[0:0::1]:07110'"),
        "tcp://[0:0::1]:07110 is given to server 1 (peer) and to server 2 (peer)",
    ),
    "all addresses at one port": (
        BASE + server(1, "peer_bind = 'tcp://*:7'\nclient_bind = 'tcp://0.0.0.0:7'"),
        "is given to server 1 (peer) and to server 1 (client)",
    ),
    "a port for figures as well": (
        BASE + server(1, "metrics = '*:7'\nclient_bind = 'tcp://*:7'"),
        "tcp://*:7 is given to server 1 (client) and to server 1 (metrics)",
    ),
    "one port for figures of two": (
        BASE + server(1, "metrics = 9100") + server(2, "metrics = '127.0.0.1:9100'"),
        "tcp://127.0.0.1:9100 is given to server 1 (metrics) and to server 2 (metrics)",
    ),
    "dialled everywhere": (BASE + server(1, "host = '0.0.0.0'"), "cannot be dialled"),
    "a directory of nobody": (BASE + server(1, "directory = '~no one/d'"), "home directory"),
    "no directory's name": (BASE + server(1, 'directory = "a\\u0000b"'), "null character"),
    "one inside address on one host": (
        BASE
        + server(1, "client_bind = 'tcp://10.0.0.2:7111'")
        + server(2, "client_bind = 'tcp://10.0.0.2:7111'"),
        "tcp://10.0.0.2:7111 is given to server 1 (client) and to server 2 (client)",
    ),
    "shared directory": (
        BASE + server(1, "directory = 'd'") + server(2, "directory = 'd'"),
        "share the directory",
    ),
    "key of a wrong form": (BASE + server(1, "public_key = 'short'"), "public_key: a key has 40"),
    "a server without a key": (
        BASE + server(1, f"public_key = '{KEY}'") + server(2),
        "server 2 has no public_key",
    ),
    "a key of no Z85 text": (BASE + server(1, f"public_key = '{'#' * 40}'"), "is no Z85 text"),
    "one key for two": (
        BASE + server(1, f"public_key = '{KEY}'") + server(2, f"public_key = '{KEY}'"),
        "servers 1 and 2 have the same public_key",
    ),
    "a key file alone": (BASE + server(1, "key_file = 'k'"), "key_file: needs its public_key"),
    "clients' keys of a wrong type": (BASE + "client_keys = 'a'\n" + server(1), "must be a list"),
    "client's key of a wrong form": (BASE + "client_keys = ['a']\n" + server(1), "a key has 40"),
    "clients' keys alone": (
        BASE + f"client_keys = ['{KEY}']\n" + server(1),
        "every server needs a public_key",
    ),
    "no TOML": ("cluster = [", "is not TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    with pytest.raises(ClusterFileError) as raised:
        read(tmp_path, text)
    sentence = str(raised.value)
    assert sentence.startswith(str(tmp_path / "orders.toml"))
    assert expected in sentence
    assert "\n" not in sentence


def test_hosts_behind_address_translation_may_have_one_inside_address(tmp_path: Path) -> None:
    inside = "peer_bind = 'tcp://10.0.0.2:7110'\nclient_bind = 'tcp://10.0.0.2:7111'"
    hosts = (server(n, f"host = '192.0.2.{n}'\n{inside}") for n in (1, 2))
    found = read(tmp_path, BASE + "".join(hosts))
    assert {entry.client_bind for entry in found.servers.values()} == {"tcp://10.0.0.2:7111"}


def test_a_missing_unreadable_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterFileError, match="no such cluster file"):
        ClusterDescription.read(tmp_path / "none.toml")
    with pytest.raises(ClusterFileError, match="cannot be read"):
        ClusterDescription.read(tmp_path)
    with pytest.raises(ClusterFileError, match="cannot be read: File too large"):
        ClusterDescription.read(Path("/dev/zero"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterFileError, match="not UTF-8"):
        ClusterDescription.read(tmp_path / "binary.toml")


def test_options_are_read_from_flags_and_variables() -> None:
    assert parse_assignments(["window=3", "batch-bytes = 10", "window=4", "leases=false"]) == {
        "window": 4,
        "batch_bytes": 10,
        "leases": False,
    }
    assert from_environment({"PAXON_POLICY": "backoff", "PAXON_WINDOW": " "}) == {
        "policy": "backoff"
    }
    with pytest.raises(OptionError, match="write NAME=VALUE"):
        parse_assignments(["window"])
    with pytest.raises(OptionError, match="unknown option 'servers'"):
        parse_assignments(["servers=3"])
    with pytest.raises(OptionError, match="PAXON_WINDOW: window = 'x': must be a whole number"):
        from_environment({"PAXON_WINDOW": "x"})
    others = [
        "PAXON_SERVICE_HOST",
        "PAXON_PORT_7111_TCP",
        "PAXON_PORT",
        "PAXON_CLUSTER",
        "PAXON_KEY",
    ]
    others += ["PAXON_TIMEOUT", "PAXON_ETCD_LISTEN", "PAXON_DEBUG", "PAXON_WINDOW", "PAXON_METRICS"]
    assert misspelt(dict.fromkeys([*others, "WINDOWS"], "1")) == []
    assert misspelt({"PAXON_HEARTBEET_INTERVAL": "1"}) == [
        "the environment variable PAXON_HEARTBEET_INTERVAL is read by nobody (did you mean "
        "'PAXON_HEARTBEAT_INTERVAL'?)"
    ]


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    description = read(tmp_path, GOOD)
    with pytest.raises(ClusterFileError, match="there is no server 4; its ids are 1, 2, 3"):
        description.plan(4)
    with pytest.raises(SettingsError, match="heartbeat_interval"):
        description.plan(1, {"heartbeat_interval": 5})


def test_the_command_exits_with_2_for_a_wrong_file_or_option(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(BASE + server(1) + server(1), encoding="utf-8")
    done = paxon_here("server", "--cluster", str(path), "--id", "1")
    assert done.returncode == 2
    assert one_sentence(done).startswith(f"paxon: {path}: the server id 1 occurs 2 times")
    path.write_text(BASE + server(1), encoding="utf-8")
    for wrong in (
        ("--id", "2"),
        ("--id", "1", "--set", "window=none"),
        ("--id", "1", "--set", "window=-1"),
        ("--id", "1", "--log-level", "loud"),
    ):
        done = paxon_here("server", "--cluster", str(path), *wrong)
        assert done.returncode == 2, wrong
        one_sentence(done)


@pytest.mark.process
@pytest.mark.parametrize("machine", ["nothing", "no_such_module:Machine", "json:JSONDecoder"])
def test_the_command_exits_with_2_for_a_wrong_machine(machine: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(BASE + server(1), encoding="utf-8")
    done = paxon("server", "--cluster", str(path), "--id", "1", "--machine", machine)
    assert done.returncode == 2
    one_sentence(done)


class Unmakeable(KVStore):
    """Its constructor fails."""

    def __init__(self) -> None:
        raise ValueError("not today")


def test_a_machine_that_cannot_be_made_says_why() -> None:
    with pytest.raises(MachineError, match="Unmakeable' cannot be made: ValueError: not today"):
        load_machine(f"{__name__}:Unmakeable")


def test_addresses_are_checked() -> None:
    for good in ("tcp://127.0.0.1:1", "tcp://[fe80::1%eth0]:65535", "tcp://*:7", "ipc:///tmp/x"):
        assert check_address(good) == good
    of_no_form = (
        "tcp://...:1",
        f"tcp://{'a' * 64}:1",
        "tcp://1.2.3:1",
        "tcp://[:::]:1",
        "tcp://a:\uff11",
    )
    unix = "ipc://", "ipc://*", "ipc:///a\0b"
    for bad in (
        "",
        "127.0.0.1:1",
        "tcp://a",
        "tcp://a:0",
        "tcp://a:65536",
        "udp://a:1",
        *of_no_form,
        *unix,
    ):
        with pytest.raises(ValueError, match=r"address|ports"):
            check_address(bad)
    with pytest.raises(ValueError, match="longer than"):
        check_address("ipc://" + "x" * 108)
    assert split_addresses("localhost:1, tcp://b:2,") == ["tcp://localhost:1", "tcp://b:2"]
    assert split_addresses("0.0.0.0:1") == ["tcp://0.0.0.0:1"]
    with pytest.raises(ValueError, match="cannot be dialled"):
        split_addresses("*:1")
    with pytest.raises(ValueError, match="no address given"):
        split_addresses(" , ")


def test_free_ports_are_distinct_and_outside_the_kernels_own_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= port < low for port in ports)
