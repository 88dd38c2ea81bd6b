"""Where the command `paxon` begins, before all that takes a while to import (`commands`)."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line; Ctrl-C while it is being imported ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from paxon.kvstore.cli import commands  # noqa: PLC0415 (see above)

    commands.main()
