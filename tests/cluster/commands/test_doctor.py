"""What `paxon doctor` finds, and what it says to do about it."""

from __future__ import annotations

import json
import resource
import socket
from pathlib import Path
from unittest import mock

import pytest
from msgspec import structs

from paxon.actors.disk.data_directory import Owner
from paxon.kvstore.cli import live_view
from paxon.kvstore.cli.live_view import watch_status
from paxon.kvstore.cluster import doctor
from paxon.kvstore.cluster.cluster_file import ClusterDescription
from paxon.kvstore.cluster.doctor import examine
from paxon.kvstore.cluster.status import look_around
from tests.cluster.copies.test_backup import describe, running
from tests.cluster.helpers import paxon_here


def told(directory: Path, server: int | None = 1, servers: int = 1) -> dict[str, list[str]]:
    """What was found, by level, where no server runs."""
    found: dict[str, list[str]] = {"good": [], "look": [], "bad": []}
    with mock.patch.object(doctor, "ANSWER_SECONDS", 0.01):
        for finding in examine(describe(directory, servers), server):
            found[finding.level].append(f"{finding.what}: {finding.text}")
    return found


def test_a_host_where_all_is_well(tmp_path: Path) -> None:
    with mock.patch.object(doctor, "SLOW_SYNC", 60.0):
        found = told(tmp_path, servers=3)
    assert "hosts: all servers are on one host, and go down with it" in found["look"]
    assert not [line for line in found["bad"] if not line.startswith("sync")]
    for what in (
        "versions:",
        "servers: 3 of them survive the loss of 1",
        "names: server 1",
        "space",
    ):
        assert any(line.startswith(what) for line in found["good"]), what
    assert sum(line.endswith("is free") for line in found["good"]) == 2
    entry = describe(tmp_path).servers[1]
    named = structs.replace(entry, peer_bind=f"tcp://lo:{entry.peer.rpartition(':')[2]}")
    assert [each.level for each in doctor._ports(named)] == ["good", "good"]
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.toml"]  # nothing is left behind


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    cluster = describe(tmp_path, 2)
    text = (tmp_path / "cluster.toml").read_text(encoding="utf-8")
    text = text.replace("id = 2\n", 'id = 2\nhost = "no-such-host.invalid"\n')
    text = text.replace("id = 1\n", 'id = 1\nmetrics = "192.0.2.1:9100"\n')
    (tmp_path / "cluster.toml").write_text(text, encoding="utf-8")
    port = int(cluster.servers[1].client.rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)),
        mock.patch.object(doctor, "_syncs", return_value=[0.001, 2.0, 3.0]),
        mock.patch.object(doctor, "LEAST_FREE", 1 << 60),
    ):
        done = paxon_here("doctor", "-c", str(tmp_path / "cluster.toml"), "-i", "1", "--json")
    assert done.returncode == 1
    found = [(each["level"], each["what"], each["text"]) for each in json.loads(done.stdout)]
    bad = {what for level, what, _ in found if level == "bad"}
    assert bad == {"names", "space", "sync", "ports"}
    assert any("for figures at tcp://192.0.2.1:9100: no network" in text for _, _, text in found)
    assert any(w == "ports" and "is in use" in text for _, w, text in found)
    assert "hosts" not in {what for _, what, _ in found}
    assert any(w == "servers" and "not one may be lost" in text for _, w, text in found)


def test_a_slow_clock_and_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    source = tmp_path / "clock"
    source.write_text("hpet\n", encoding="ascii")
    (finding,) = doctor._clock(source)
    assert finding.level == "look" and "hpet" in finding.text
    assert not list(doctor._clock(tmp_path / "none"))
    with (
        mock.patch.object(doctor, "_syncs", side_effect=PermissionError(13, "Permission denied")),
        mock.patch.object(resource, "getrlimit", return_value=(5000, 70_000)),
    ):
        found = told(tmp_path)
    assert any("cannot be written (Permission denied)" in line for line in found["bad"])
    with mock.patch.object(doctor, "owner_of", side_effect=PermissionError(13, "not for you")):
        assert any("cannot be read (not for you)" in line for line in told(tmp_path)["bad"])
    assert any("file limit: a file may grow to 5,000 bytes" in line for line in found["bad"])


@pytest.mark.parametrize(("took", "level"), [(0.001, "good"), (0.1, "look"), (9.0, "bad")])
def test_how_long_a_sync_takes(took: float, level: str, tmp_path: Path) -> None:
    with mock.patch.object(doctor, "_syncs", return_value=[took] * 5):
        _, sync = doctor._disk(describe(tmp_path).plan(1))
    assert (sync.level, sync.what) == (level, "sync")


def test_servers_that_run_are_asked(tmp_path: Path) -> None:
    cluster = describe(tmp_path)
    with running(cluster) as kv:
        kv.put("motto", b"x")
        found = [each for each in examine(cluster, None) if each.what == "running"]
        other = [*examine(structs.replace(cluster, id="other"), None)]
        entry = cluster.servers[1]
        assert not [*doctor._lost_disk(entry, [entry.client], None)]
        empty = structs.replace(entry, directory=str(tmp_path / "empty"))
        (lost,) = doctor._lost_disk(empty, [entry.client], None)
        assert not [*doctor._lost_disk(structs.replace(empty, id=2), [entry.client], None)]
        # What is left of a cluster that another was made of, by `paxon recover`, say.
        (left,) = doctor._lost_disk(structs.replace(entry, id=2), [entry.client], None)
    assert lost.level == "bad" and "start once with --rejoin" in lost.text
    assert left.level == "look" and "then `paxon member add 2` make it a member" in left.text
    assert [each.level for each in found] == ["good"]
    assert found[0].text == "1 of 1 servers answer"
    said = [each.text for each in other if each.level == "bad"]
    assert any("is server 1 of cluster 'restored'" in text for text in said)


def test_whose_directory_and_key_it_is(tmp_path: Path) -> None:
    cluster = describe(tmp_path)
    directory = Path(cluster.servers[1].directory)

    def found(who: ClusterDescription = cluster) -> dict[tuple[str, str], str]:
        plan = who.plan(1)
        each = [*doctor._directory(plan), *doctor._keys(plan)]
        return {(finding.level, finding.what): finding.text for finding in each}

    assert "is empty or new" in found()["good", "directory"]
    with running(cluster):
        assert "is this server's" in found()["good", "directory"]
    with mock.patch("os.access", return_value=False):
        assert "is not this user's" in found()["bad", "directory"]
    other = structs.replace(cluster, id="other")
    assert "is of server 1 of cluster 'restored'" in found(other)["bad", "directory"]
    with mock.patch.object(doctor, "owner_of", return_value=Owner(trouble="it is damaged")):
        assert found()["bad", "directory"] == "it is damaged"
    (directory / "paxon.diverged").write_text("it executed something else\n")
    assert "it executed something else" in found()["bad", "directory"]
    secured = cluster.with_keys()
    key = Path(secured.servers[1].key_file)
    assert "is this server's" in found(secured)["good", "keys"]
    key.chmod(0o644)
    assert "chmod 600" in found(secured)["bad", "keys"]
    key.unlink()
    assert "cannot read the key file" in found(secured)["bad", "keys"]


def test_servers_that_do_not_take_part_as_the_others_are_named(tmp_path: Path) -> None:
    cluster = describe(tmp_path)
    with running(cluster) as kv:
        kv.put("motto", b"x")
        (row,) = look_around(cluster.client_addresses, 5.0)
    assert row.reply is not None and row.reply.part == "voter"
    of_three = structs.replace(row.reply, members=(1, 2, 3), epoch=4)
    replies = [
        of_three,
        structs.replace(of_three, server=2, part="learner"),
        structs.replace(of_three, server=5, part="none"),
        structs.replace(of_three, server=7, epoch=2),
    ]
    found = {each.text: each.level for each in doctor._members(cluster, replies)}
    assert set(found.values()) == {"look"}
    for said in (
        "server 2 learns, and has no vote yet",
        "server 5 runs, and is no member",
        "server 7 is in epoch 2, and server 1 in epoch 4: it is cut off, or was removed",
        "they are 1, 2, 3, and the file lists others",
    ):
        assert any(text.startswith(said) for text in found), said
    rows = [  # the older reply counts 7 as a member still
        structs.replace(row, server=7, reply=structs.replace(of_three, epoch=2, members=(1, 2, 7))),
        structs.replace(row, reply=of_three),
        *(structs.replace(row, server=server, reply=None) for server in (2, 4, 7)),
    ]
    with mock.patch.object(doctor, "look_around", return_value=rows):
        texts = [each.text for each in doctor._running(cluster, None)]
    assert [text.split(" at ")[0] for text in texts if "does not answer" in text] == ["server 2"]
    (good,) = doctor._members(cluster, [row.reply])
    assert (good.level, good.text) == ("good", "they are 1, in epoch 0")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    done = paxon_here("doctor", "-c", str(tmp_path / "none.toml"))
    assert done.returncode != 0 and b"there is no such cluster file" in done.stderr


def test_status_is_shown_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = describe(tmp_path)
    with running(cluster) as kv, mock.patch.object(live_view, "_LOOK_SECONDS", 0.01):
        kv.put("motto", b"x")
        watch_status(lambda: look_around(cluster.client_addresses, 5.0), as_json=False, times=2)
        watch_status(lambda: look_around(cluster.client_addresses, 5.0), as_json=True, times=2)
        lines = capsys.readouterr().out.splitlines()
        with mock.patch.object(live_view, "watch_status", side_effect=KeyboardInterrupt) as watched:
            asked = ["status", "--watch", "--state", "-c", *cluster.client_addresses.values()]
            assert paxon_here(*asked).returncode == 130
        watch_status(*watched.call_args.args, **watched.call_args.kwargs, times=1)
        assert " state " in capsys.readouterr().out
    assert len(lines) == 4 and all(line.startswith("1 leader ") for line in lines[:2])
    assert all(json.loads(line)[0]["role"] == "leader" for line in lines[2:])
