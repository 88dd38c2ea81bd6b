from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd.tools import Gateway, Grpc, real_etcd


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a module with `BESIDE_ETCD` says of Paxon holds for a real etcd too."""
    if "address" in metafunc.fixturenames and getattr(metafunc.module, "BESIDE_ETCD", False):
        metafunc.parametrize("address", ["gateway", "etcd"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest) -> str:
    """Of the gateway, or of what a test is run in front of."""
    server = request.getfixturevalue(getattr(request, "param", "gateway"))
    return str(getattr(server, "address", server))


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Grpc]:
    client = Grpc(address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real etcd."""
    directory: Path = tmp_path_factory.mktemp("etcd")
    with real_etcd(directory) as address:
        yield address
