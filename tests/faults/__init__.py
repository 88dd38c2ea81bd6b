"""Real faults on real processes (docs/faults.md)."""
