"""Real faults on real processes (docs/checks/faults.md)."""
