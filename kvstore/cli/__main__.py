"""`python -m paxon.kvstore.cli`: the command `paxon` where no script was installed for it."""

from __future__ import annotations

from paxon.kvstore.cli.app import main

__all__: list[str] = []

main()
