from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd.tools import Gateway, Grpc, real_etcd


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[Grpc]:
    client = Grpc(gateway.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real etcd."""
    directory: Path = tmp_path_factory.mktemp("etcd")
    with real_etcd(directory) as address:
        yield address
