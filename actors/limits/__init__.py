"""How much anybody may take (rule 16), and how far a number from the wire is believed.

Read `allowances` (the bounds), `turns` (clients' requests that wait, and whose is next) and
`bounds` (numbers that peers and clients send).
"""

from __future__ import annotations

__all__: list[str] = []
