"""Clusters with CURVE keys: `paxon keygen`, keys in the cluster file, and who is let in."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from paxon.kvstore import (
    AsyncClient,
    Client,
    ClusterUnavailable,
    InvalidRequest,
    PaxonError,
)
from paxon.kvstore.client.keys import Keyring, secure_with
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.local_cluster import LocalCluster
from paxon.kvstore.cluster.status import agreed_leader, look_around
from paxon.transport import CurveKeys, TransportError
from tests.cluster.commands.test_server_command import refused, serving
from tests.cluster.helpers import (
    captured_logs,
    once_it_says,
    one_sentence,
    paxon_here,
    wait_until,
    write_cluster_file,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE"),
]


def keygen(path: Path) -> str:
    """What `paxon keygen` prints: a line for the cluster file."""
    done = paxon_here("keygen", str(path))
    assert done.returncode == 0, done
    return done.stdout.decode()


def with_keys(directory: Path, servers: list[int], extra: str = "") -> Path:
    """A cluster file whose servers have keys, in files where each looks for its own."""
    path = write_cluster_file(directory / "secret.toml", servers, extra=extra)
    text = path.read_text()
    for server in servers:
        line = keygen(directory / f"server-{server}.key")
        text = text.replace(f"id = {server}\n", f"id = {server}\n{line}")
    path.write_text(text)
    return path


def server_keys(path: Path) -> dict[str, str]:
    description = ClusterDescription.read(path)
    return {description.client_addresses[s]: key for s, key in description.public_keys.items()}


def test_keygen_makes_a_pair_once(tmp_path: Path) -> None:
    path = tmp_path / "me.key"
    line = paxon_here("keygen", str(path)).stdout.decode()
    assert line == keygen(path) == f'public_key = "{CurveKeys.load(path).public}"\n'
    path.chmod(0o644)
    done = paxon_here("keygen", str(path))
    assert done.returncode == 1
    assert "chmod 600" in one_sentence(done)


def test_three_servers_with_keys_agree_and_let_in_who_knows_theirs(tmp_path: Path) -> None:
    file = with_keys(tmp_path, [1, 2, 3])
    cluster = ("--cluster", str(file))
    with ExitStack() as stack:
        for server in (1, 2, 3):
            stack.enter_context(serving(file, server))
        assert paxon_here("put", "key", "value", *cluster).returncode == 0
        assert paxon_here("get", "key", *cluster).stdout == b"value"
        wait_until(lambda: paxon_here("status", *cluster).stdout.count(b"follower") == 2)
        wait_until(lambda: paxon_here("status", *cluster).returncode == 0)
        wait_until(lambda: b"3 of 3 servers answer" in paxon_here("doctor", *cluster).stdout)
        # In plain nobody is heard.
        address = next(iter(server_keys(file)))
        plain = ("get", "key", "--cluster", address, "--timeout", "1")
        done = once_it_says("refuses a client without a key", *plain)
        assert done.returncode == 5
        assert "no server answered" in one_sentence(done)
        _wrong_and_unknown_keys(file, server_keys(file))


def _wrong_and_unknown_keys(file: Path, known: dict[str, str]) -> None:
    """Each has its own sentence, in whatever way it is asked, and nothing is logged."""
    said = "amid the handshake, as a server does whose public key is not the one"
    wrong = {address: CurveKeys.generate().public for address in known}

    async def ask() -> str:
        async with AsyncClient(list(wrong), timeout=0.5, secure=secure_with(wrong)) as client:
            with pytest.raises(ClusterUnavailable) as error:
                await client.get("key")
        return str(error.value)

    with captured_logs() as lines:
        wait_until(
            lambda: said in asyncio.run(ask())
        )  # (a busy machine may shake no hands so soon)
        for address in known.keys() - {leading(known)}:
            secure = secure_with({address: known[address]})
            with Client(address, secure=secure) as client:  # it is told the leader's key
                client.put("key", "value")
    assert lines == []
    text = file.read_text()
    for address, key in known.items():
        text = text.replace(key, wrong[address])
    other = file.with_name("wrong.toml")
    other.write_text(text)
    cluster = ("--cluster", str(other), "--timeout", "0.5")
    for command in (("put", "key", "other"), ("member", "list")):
        assert once_it_says(said, *command, *cluster).returncode == 5
    wait_until(lambda: paxon_here("status", *cluster).stderr.decode().count(said) == 3)
    assert paxon_here("status", *cluster).returncode == 5
    doctor = ("doctor", "--cluster", str(other))
    wait_until(lambda: paxon_here(*doctor).stdout.decode().count(said) == 3)


def leading(known: dict[str, str]) -> str:
    """The address of the server that leads."""
    addresses = dict(enumerate(known, 1))
    leader = None
    while leader is None:
        rows = look_around(addresses, 5.0, secure_with(known))
        leader = agreed_leader({row.server: row.reply for row in rows if row.reply})
    return addresses[leader]


def test_only_known_clients_are_let_in(tmp_path: Path) -> None:
    known = CurveKeys.generate()
    known.save(tmp_path / "known.key")
    file = with_keys(tmp_path, [1], extra=f'client_keys = ["{known.public}"]')
    cluster = ("--cluster", str(file))
    with serving(file):
        done = paxon_here("put", "key", "value", *cluster, "--key", str(tmp_path / "known.key"))
        assert done.returncode == 0, done
        done = once_it_says("refuses the key of this client", "get", "key", *cluster, "-t", "1")
        assert done.returncode == 5
        keys = server_keys(file)
        with Client(list(keys), timeout=60.0, secure=secure_with(keys, known)) as client:
            assert client.get("key") == b"value"
        stranger = secure_with(keys, CurveKeys.generate())
        with (
            Client(list(keys), timeout=1.0, secure=stranger) as client,
            pytest.raises(PaxonError),
        ):
            client.get("key")


def test_a_key_file_that_is_missing_open_or_anothers_is_refused(tmp_path: Path) -> None:
    file = with_keys(tmp_path, [1])
    own = tmp_path / "server-1.key"
    own.chmod(0o640)
    assert "chmod 600" in refused(file)
    own.unlink()
    assert "cannot read the key file" in refused(file)
    keygen(own)
    sentence = refused(file)
    assert "another key than the cluster file gives server 1" in sentence
    assert CurveKeys.load(own).public in sentence
    assert not (tmp_path / "server-1").exists()


def test_a_key_for_a_cluster_without_keys_is_wrong_usage(tmp_path: Path) -> None:
    file = write_cluster_file(tmp_path / "plain.toml", [1])
    keygen(tmp_path / "me.key")
    for cluster in (str(file), "tcp://127.0.0.1:7111"):
        done = paxon_here("get", "key", "--cluster", cluster, "--key", str(tmp_path / "me.key"))
        assert done.returncode == 2
        assert b"public keys" in done.stderr


def test_a_client_goes_nowhere_without_a_key() -> None:
    """Not even where a server sends it."""
    secure = secure_with({"localhost:7111": CurveKeys.generate().public})
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        secure(socket, "tcp://localhost:7111")
        assert socket.getsockopt(zmq.MECHANISM) == zmq.CURVE
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
        pytest.raises(ValueError, match="no public key is known"),
    ):
        secure(socket, "tcp://127.0.0.1:9")


def test_keys_of_servers_are_checked_at_once() -> None:
    with pytest.raises(TransportError, match="a key has 40 characters"):
        secure_with({"localhost:7111": "short"})
    with pytest.raises(InvalidRequest):
        secure_with({"local host": CurveKeys.generate().public})
    with pytest.raises(InvalidRequest, match=r"a dict of keys by address, not \['key'\]"):
        secure_with(["key"])  # type: ignore[arg-type]


def test_nobody_is_given_the_key_of_another_member(tmp_path: Path) -> None:
    """The log knows no key that only files have, and the others would lock that member out."""
    file = with_keys(tmp_path, [1, 2])
    key = ClusterDescription.read(file).servers[2].public_key
    for what in ("move", "replace"):
        given = ("--public-key", key, "--cluster", str(file), "--timeout", "0.2")
        done = paxon_here("member", what, "1", *given)
        assert done.returncode == 2
        assert "that is server 2's" in done.stderr.decode()


def test_a_key_is_changed_by_the_one_restart_of_its_own_server(tmp_path: Path) -> None:
    """The others, which are not restarted, go by the key in the configuration from then on. Where
    they would be no majority without that server nobody could go on: so that is refused."""
    file, old = with_keys(tmp_path, [1, 2, 3]), tmp_path / "old.toml"
    old.write_text(file.read_text())
    before = ClusterDescription.read(file).public_keys[2]
    keygen(tmp_path / "new.key")
    after = CurveKeys.load(tmp_path / "new.key").public
    move = ("member", "move", "2", "--public-key", after, "-c", str(file), "--timeout", "60")
    put = ("put", "key", "value", "--timeout", "60", "-c", str(file))
    with serving(file, 1):
        with serving(file, 2) as second:
            with serving(file, 3) as third:
                assert paxon_here(*put).returncode == 0
                assert third.end()[0] == 0
            wait_until(lambda: b"would answer again once restarted" in paxon_here(*move).stderr)
            with serving(file, 3):
                wait_until(lambda: paxon_here(*move).returncode == 0)
            assert second.end()[0] == 0
        (tmp_path / "new.key").replace(tmp_path / "server-2.key")
        file.write_text(file.read_text().replace(before, after))
        with serving(file, 2):
            assert paxon_here(*put).returncode == 0  # that takes both
            status = ("status", "--cluster", str(old))
            changed = b"whose public key is not the one"
            wait_until(lambda: changed in paxon_here(*status).stderr)


def test_a_client_that_was_refused_is_let_in_once_it_is_known(tmp_path: Path) -> None:
    newcomer = CurveKeys.generate()
    file = with_keys(tmp_path, [1], extra="client_keys = []")
    keys = server_keys(file)
    with Client(list(keys), timeout=60.0, secure=secure_with(keys, newcomer)) as client:
        with serving(file) as server:
            with pytest.raises(PaxonError):
                client.put("key", b"value", timeout=1.0)
            assert server.end()[0] == 0
        file.write_text(file.read_text().replace("[]", f'["{newcomer.public}"]'))
        with serving(file):
            client.put("key", b"value")
            assert client.get("key") == b"value"


def test_a_local_cluster_with_keys_lets_in_its_own_clients_and_nobody_in_plain(
    tmp_path: Path,
) -> None:
    """Its file holds the public keys, by which the command finds its way; a restart keeps them."""
    with LocalCluster(3, tmp_path, keys=True) as cluster:
        with cluster.client(timeout=60.0) as kv:
            kv.put("key", "value")
            assert kv.transfer_leader(timeout=60.0) in cluster.servers
        file = str(tmp_path / "cluster.toml")
        assert paxon_here("get", "key", "--cluster", file).stdout == b"value"
        with Client(cluster.addresses, timeout=0.5) as plain, pytest.raises(PaxonError):
            plain.get("key")
        held = ClusterDescription.read(Path(file)).public_keys
    assert len(set(held.values())) == 3
    again = LocalCluster(3, tmp_path, keys=True)
    with again, again.client(timeout=60.0) as kv:
        assert kv.get("key") == b"value"
    assert ClusterDescription.read(Path(file)).public_keys == held


def test_a_key_belongs_to_a_server_wherever_it_is_told_to_be() -> None:
    one, two = CurveKeys.generate().public, CurveKeys.generate().public
    known: dict[str | int, str] = {"tcp://a:1": one, 2: two}
    ring = secure_with(known)
    assert isinstance(ring, Keyring)
    where = {1: "tcp://a:1", 2: "tcp://b:1", 3: "tcp://c:1"}
    assert ring.learn(where, {4: one})  # nobody gave a key for server 3
    assert ring._by_address == {"tcp://a:1": one, "tcp://b:1": two}
    ring.learn({1: "tcp://b:1", 2: "tcp://a:1"}, {})  # they have exchanged their addresses
    assert ring._by_address == {"tcp://a:1": two, "tcp://b:1": one}
    three = CurveKeys.generate().public
    assert not ring.learn({1: "tcp://d:1", 3: "tcp://e:1"}, {1: three, 3: two})
    assert ring._by_address["tcp://d:1"] == three and ring._by_address["tcp://e:1"] == two
