"""TLS and certificates of clients: etcdctl, gRPC's own client, and Python's HTTPS."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from paxon.kvstore.errors import InvalidRequest
from paxon.kvstore.etcd.process import Listening
from tests.etcd.others.test_etcdctl import Etcdctl
from tests.etcd.test_bad_input import until_closed
from tests.etcd.tools import Gateway, Grpc
from tests.waiting import wait_until

EXTENSIONS = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def openssl(*arguments: object) -> None:
    try:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificates, is not installed")


class Certificates:
    """Two authorities; the server and one client are of the first, a stranger of the second."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for authority in ("ca", "other"):
            openssl(
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-days", 2, "-subj", f"/CN={authority}",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",  # wanted from Python 3.13 on
                "-keyout", self.key(authority), "-out", self.certificate(authority),
            )  # fmt: skip
        for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
            self._issue(name, authority)

    def _issue(self, name: str, authority: str) -> None:
        request, extensions = self.place / f"{name}.csr", self.place / "extensions"
        extensions.write_text(EXTENSIONS)
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", request,
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate(authority),
            "-CAkey", self.key(authority), "-CAcreateserial", "-days", 2,
            "-extfile", extensions, "-out", self.certificate(name),
        )  # fmt: skip

    def certificate(self, name: str) -> Path:
        return self.place / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.place / f"{name}.key"

    def credentials(self, client: str | None = None) -> Any:
        """gRPC's, that trust the first authority."""
        pair = (
            {}
            if client is None
            else {
                "private_key": self.key(client).read_bytes(),
                "certificate_chain": self.certificate(client).read_bytes(),
            }
        )
        return grpc.ssl_channel_credentials(self.certificate("ca").read_bytes(), **pair)

    def listening(self, *, client_ca: bool) -> Listening:
        return Listening.at(
            "127.0.0.1:0", str(self.certificate("server")), str(self.key("server")),
            str(self.certificate("ca")) if client_ca else "",
        )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(made: Certificates) -> Iterator[Gateway]:
    """Asks no client for a certificate."""
    with Gateway(tls=made.listening(client_ca=False).tls()) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def closed(made: Certificates) -> Iterator[Gateway]:
    """Lets in who has a certificate of the first authority."""
    with Gateway(tls=made.listening(client_ca=True).tls()) as gateway:
        yield gateway


def put(address: str, credentials: Any) -> int:
    client = Grpc(address, credentials)
    try:
        return int(client.kv("Put", key=b"k", value=b"v").header.revision)
    finally:
        client.close()


def version(address: str, made: Certificates, client: str | None = None) -> Any:
    context = ssl.create_default_context(cafile=str(made.certificate("ca")))
    if client is not None:
        context.load_cert_chain(made.certificate(client), made.key(client))
    url = f"https://{address}/version"
    with urllib.request.urlopen(url, context=context, timeout=20) as answer:
        return json.load(answer)


def test_grpc_and_json_over_tls(encrypted: Gateway, made: Certificates) -> None:
    assert put(encrypted.address, made.credentials()) > 0
    assert version(encrypted.address, made)["etcdserver"]


def test_a_certificate_of_another_authority_is_not_trusted(
    encrypted: Gateway, made: Certificates
) -> None:
    other = grpc.ssl_channel_credentials(made.certificate("other").read_bytes())
    with pytest.raises(grpc.RpcError) as caught:
        put(encrypted.address, other)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_only_who_shows_a_certificate_is_served(closed: Gateway, made: Certificates) -> None:
    assert put(closed.address, made.credentials("client")) > 0
    assert version(closed.address, made, "client")["etcdserver"]
    for stranger in (None, "stranger"):
        with pytest.raises(grpc.RpcError):
            put(closed.address, made.credentials(stranger))
        with pytest.raises((ssl.SSLError, ConnectionError, urllib.error.URLError)):
            version(closed.address, made, stranger)
    assert put(closed.address, made.credentials("client")) > 0


def test_etcdctl_over_tls(closed: Gateway, made: Certificates) -> None:
    ctl = Etcdctl(
        f"https://{closed.address}", f"--cacert={made.certificate('ca')}",
        f"--cert={made.certificate('client')}", f"--key={made.key('client')}",
    )  # fmt: skip
    assert ctl("put", "a", "1") == "OK\n"
    assert ctl("get", "a") == "a\n1\n"


def test_who_speaks_plainly_to_a_tls_port_is_sent_away(closed: Gateway, made: Certificates) -> None:
    for data in (b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        assert b"etcdserver" not in until_closed(closed.address, data)
    assert put(closed.address, made.credentials("client")) > 0


def test_who_never_ends_a_handshake_is_closed(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paxon.kvstore.etcd.listener._HANDSHAKE_SECONDS", 0.5)
    with Gateway(tls=made.listening(client_ca=False).tls()) as gateway:
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
            link.settimeout(20)
            assert link.recv(1) == b""
        assert time.monotonic() - begun < 15

        def serves() -> bool:  # (a busy machine may be late for so short a handshake, too)
            with contextlib.suppress(grpc.RpcError):
                return put(gateway.address, made.credentials()) > 0
            return False

        wait_until(serves)


def test_files_that_cannot_be_used_are_named(made: Certificates, tmp_path: Path) -> None:
    missing = Listening("127.0.0.1", 0, str(tmp_path / "missing"), str(made.key("server")))
    wrong = Listening("127.0.0.1", 0, str(made.certificate("server")), str(made.key("client")))
    for listening in (missing, wrong):
        with pytest.raises(InvalidRequest, match="the TLS files cannot be used: "):
            listening.tls()
    with pytest.raises(InvalidRequest, match="both a certificate and its key"):
        Listening.at("127.0.0.1:1", certificate=str(made.certificate("server")))
