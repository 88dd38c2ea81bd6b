"""An application with folders named like ours embeds Paxon, from the built wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import Installed, run

pytestmark = [pytest.mark.process, pytest.mark.slow]

APPLICATION = {
    "actors/__init__.py": "CAST = ['Ophelia', 'Hamlet']\n",
    "transport.py": "def carry(what):\n    return f'by cart: {what}'\n",
    "kvstore/__init__.py": "from kvstore.shelf import Shelf\n",
    "kvstore/shelf.py": "class Shelf(dict):\n    pass\n",
    "bench.py": "SEATS = 4\n",
    "ledger.py": """
from paxon import StateMachine


class Ledger(StateMachine):
    def __init__(self):
        self.lines = []

    def apply(self, command):
        self.lines.append(command)
        return b"%d" % len(self.lines)

    def query(self, query):
        return b",".join(self.lines)

    def snapshot(self):
        return b",".join(self.lines)

    def restore(self, snapshot):
        self.lines = snapshot.split(b",")
""",
    "main.py": """
import sys
import sys
from pathlib import Path

import actors
import bench
import kvstore
import paxon
import paxon.actors
import paxon.kvstore
import transport
from ledger import Ledger
from paxon import CommandClient, LocalCluster

HERE = Path(__file__).resolve().parent


def main():
    for ours in (actors, bench, kvstore, transport):
        assert HERE in Path(ours.__file__).parents, ours
    for theirs in (paxon.actors, paxon.kvstore):
        assert HERE not in Path(theirs.__file__).parents, theirs
        assert Path(sys.prefix) in Path(theirs.__file__).parents, theirs
    shelf = kvstore.Shelf(seats=bench.SEATS)
    with LocalCluster(servers=3) as cluster, cluster.client() as kv:
        kv.put("cast", " and ".join(actors.CAST))
        print(transport.carry(kv.get("cast").decode()), shelf["seats"])
    with LocalCluster(servers=3, machine=Ledger) as cluster:
        with CommandClient(cluster.addresses) as client:
            client.execute(b"skull")
            print(client.execute(b"flute").decode(), client.query(b"?").decode())


if __name__ == "__main__":
    main()
""",
}


def test_an_application_with_folders_named_like_ours(installed: Installed, tmp_path: Path) -> None:
    for name, text in APPLICATION.items():
        path = tmp_path / "the app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    printed = run(installed.python, "main.py", cwd=tmp_path / "the app")
    assert printed == "by cart: Ophelia and Hamlet 4\n2 skull,flute\n"


def test_type_checkers_follow_the_imports(installed: Installed, tmp_path: Path) -> None:
    """`py.typed` is in place: a wrong argument is found, a right one passes."""
    (tmp_path / "right.py").write_text(
        "from paxon import Client, StateMachine\n"
        "from paxon.actors import Ballot\n"
        "def length(client: Client) -> int: return len(client.get('key') or b'')\n"
        "first: Ballot = Ballot(1, 2)\n"
        "class Mine(StateMachine): pass\n"
    )
    (tmp_path / "wrong.py").write_text(
        "from paxon import Client\ndef length(client: Client) -> int: return client.get('key')\n"
    )
    command = (sys.executable, "-m", "mypy", "--python-executable", installed.python)
    with pytest.raises(AssertionError, match="return-value") as found:
        run(*command, "right.py", "wrong.py", cwd=tmp_path)
    assert "Found 1 error in 1 file (checked 2 source files)" in str(found.value)
