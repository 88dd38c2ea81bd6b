"""Names with several addresses, and ports that a dialler could be given itself."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import zmq

from paxon.kvstore.client.addresses import free_ports
from paxon.transport import Context, LinkMonitor, binding, monitor
from paxon.transport.binding import bind, dialled, in_ephemeral_range, is_host_name
from tests.cluster.helpers import wait_until
from tests.faults.networks.namespaces import Switch, inside, no_namespaces

BOTH = [
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),  # of no interface here
]


def no_ipv6() -> str:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return "this machine has no IPv6"
    return ""


def test_a_link_whose_number_is_a_files_by_now_leaves_no_descriptor(tmp_path: Path) -> None:
    """It would keep a deleted snapshot's room for as long as the server runs."""
    with (tmp_path / "file").open("wb") as file:
        before = sorted(Path("/dev/fd").iterdir())
        monitor._end_if_with_itself(file.fileno())
        assert sorted(Path("/dev/fd").iterdir()) == before


def test_which_are_names() -> None:
    assert is_host_name("tcp://localhost:7110")
    assert is_host_name("tcp://db-1.example:7110")
    for other in ("tcp://127.0.0.1:7110", "tcp://[::1]:7110", "tcp://*:7110", "ipc:///tmp/x"):
        assert not is_host_name(other)


def test_a_name_is_bound_at_all_of_its_addresses_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is not known at first, and then not as this machine's."""
    if no_ipv6():
        pytest.skip(no_ipv6())
    real = socket.getaddrinfo
    answers = iter([socket.gaierror(socket.EAI_AGAIN, "not yet"), BOTH[2:]])

    def found(host: str, *arguments: Any, **options: Any) -> Any:
        if host != "both.test":
            return real(host, *arguments, **options)
        answer = next(answers, BOTH)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", found)
    (port,) = free_ports(1)
    context = Context()
    try:
        bind(context.socket(zmq.ROUTER), f"tcp://both.test:{port}", "port")
        for host in ("::1", "127.0.0.1"):
            socket.create_connection((host, port), timeout=10).close()
    finally:
        context.destroy(linger=0)


def test_an_address_is_not_given_up_for_want_of_ports_or_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, here in {errno.EADDRINUSE: True, errno.EMFILE: True, errno.ENODEV: False}.items():
        monkeypatch.setattr(socket, "socket", mock.Mock(side_effect=OSError(number, "no")))
        assert bool(binding._all_here("tcp://127.0.0.1:7110")) == here


def test_every_address_of_a_name_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq would stay with 127.0.0.1, where nobody listens."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))
        for host in ("127.0.0.1", "127.0.0.9")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    (port,) = free_ports(1)
    context = Context()
    with contextlib.ExitStack() as stack:
        stack.callback(context.destroy, linger=0)
        listening = context.socket(zmq.ROUTER)
        events = listening.get_monitor_socket(int(zmq.EVENT_HANDSHAKE_SUCCEEDED))
        bind(listening, f"tcp://127.0.0.9:{port}", "port")
        monitor = LinkMonitor(context.socket(zmq.DEALER), 0.05)
        stack.callback(monitor.close)
        monitor.dial(f"tcp://localhost:{port}")

        def connected() -> bool:
            monitor.attend(time.monotonic())
            return bool(events.poll(5))

        wait_until(connected, "the second address is found")
        assert list(monitor.addresses) == [f"tcp://localhost:{port}"]


def test_from_where_a_port_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(binding, "in_ephemeral_range", lambda address: ":7110" not in address)
    assert dialled("tcp://127.0.0.1:40000") == "tcp://127.0.0.2:0;127.0.0.1:40000"
    assert dialled("tcp://127.0.0.2:40000") == "tcp://127.0.0.3:0;127.0.0.2:40000"
    for unchanged in ("tcp://127.0.0.1:7110", "tcp://10.0.0.1:40000", "ipc:///tmp/x"):
        assert dialled(unchanged) == unchanged


def test_the_usual_ports_are_outside_the_range() -> None:
    assert not in_ephemeral_range("tcp://127.0.0.1:7110")
    assert not in_ephemeral_range("ipc:///tmp/x:40000")


@pytest.mark.process
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nobody_connects_to_himself(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of few ports makes sure that a dialler would soon be given the one that it dials."""
    if no_namespaces() or no_ipv6():
        pytest.skip(no_namespaces() or no_ipv6())
    address = f"tcp://{host}:40004"
    with Switch(["a"]) as switch, contextlib.ExitStack() as stack:
        namespace = switch.namespace("a")
        small = ["sysctl", "-w", "net.ipv4.ip_local_port_range=40000 40010"]
        subprocess.run(["ip", "netns", "exec", namespace, *small], check=True, capture_output=True)
        context = inside(namespace, lambda: _begun(Context()))
        stack.callback(context.destroy, linger=0)
        link = context.socket(zmq.DEALER)
        link.setsockopt(zmq.RECONNECT_IVL, 2)
        link.setsockopt(zmq.IMMEDIATE, 1)
        dialler = LinkMonitor(link)
        stack.callback(dialler.close)
        in_vain: list[int] = []
        unpack = monitor._EVENT.unpack

        def counting(event: bytes) -> tuple[Any, ...]:
            in_vain.extend([1] * (unpack(event)[0] == monitor._RETRIED))
            return unpack(event)

        def has_dialled() -> bool:
            dialler.drain()
            return len(in_vain) >= 100  # (by the tenth or so somebody is given his own port)

        monkeypatch.setattr(monitor, "_EVENT", mock.Mock(unpack=counting))
        dialler.dial(address)
        wait_until(has_dialled, "it dials on")
        port = context.socket(zmq.ROUTER)

        def bound() -> bool:
            dialler.drain()
            with contextlib.suppress(Exception):
                inside(namespace, lambda: bind(port, address, "port"))
                return True
            return False

        wait_until(bound, "the port can be opened")

        def heard() -> bool:
            dialler.drain()
            with contextlib.suppress(zmq.Again):
                link.send(b"hello", zmq.NOBLOCK)
            return bool(port.poll(10))

        wait_until(heard, "the one who dials has found the port")


def _begun(context: Context) -> Context:
    """Its threads, which dial, begin with the first socket."""
    context.socket(zmq.PAIR).close()
    return context


def test_links_that_dial_names_do_not_wait_for_each_others_resolver() -> None:
    """libzmq looks a name up in the thread that serves the link, and a resolver may be silent."""
    context = Context(names=2)
    monitors = {host: LinkMonitor(context.socket(zmq.DEALER)) for host in ("127.0.0.1", *"abcd")}
    links = [monitor._link for monitor in monitors.values()]
    for host, each in monitors.items():
        each.dial(f"tcp://{host}:9")
    assert context.get(zmq.IO_THREADS) == 4
    assert [link.get(zmq.AFFINITY) for link in links] == [1, 8, 4, 2, 2]  # the latter share one
    monitors["a"].redial()
    assert links[1].get(zmq.AFFINITY) == 8
    for each in monitors.values():
        each.close()
    assert sorted(context.spare) == [2, 4, 8]
    context.destroy(linger=0)
