"""The command line of the benches: options, and what is printed, written and drawn.

`app` has the commands; `common` what their options share; `compare` and `scale` those of the two
largest benches; `plots` the pictures of the others.
"""

from __future__ import annotations

__all__: list[str] = []
