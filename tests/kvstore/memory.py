"""What a key takes in memory: `python -m tests.kvstore.memory [KEYS]`.

Each key is put once, with a value of 64 bytes, in commands of 100, as servers execute them; then
each is put again, so that history holds what was before. Bytes of the process's resident size.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from paxon.kvstore.store.operations import Operation, Put, encode_operations
from paxon.kvstore.store.store import KVStore

__all__ = ["main"]

_AT_ONCE = 100


def _resident() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def main(keys: int) -> None:
    """Print what each of so many keys takes."""
    store = KVStore()
    before = _resident()
    for what in ("put once", "put again"):
        for first in range(0, keys, _AT_ONCE):
            numbers = range(first, min(keys, first + _AT_ONCE))
            puts: list[Operation] = [
                Put(b"key/%08d" % number, b"%064d" % number) for number in numbers
            ]
            store.apply(encode_operations(puts))
        print(f"{keys:,} keys, {what}: {(_resident() - before) / keys:.0f} bytes each")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
