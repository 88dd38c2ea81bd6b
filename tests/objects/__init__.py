"""Your own class, replicated."""
