"""Mutants: small changes to the code of `actors/`, each of which some quick check should notice.

Read `operators.py` (which changes there are), then `checks.py` (what is run against each), then
`__main__.py` (the sweep). docs/planted-bugs.md says what it found.
"""
