"""Standard streams of a process that was started without them."""

from __future__ import annotations

import os

__all__ = ["open_standard_descriptors"]


def open_standard_descriptors() -> None:
    """Open /dev/null as stdin, stdout, stderr where those are closed.

    Else the next file, pipe or socket that is opened gets such a number, and what a library prints
    goes into it; and a child that is given it loses it when its own output is redirected. Libraries
    open files as they are imported (libffi does, from 3.5 on): the sooner the better.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number. To read stdin, and to write stdout, is an error as before.
            os.set_inheritable(os.open(os.devnull, flags), True)
