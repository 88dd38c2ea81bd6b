"""The storage engines: one contract for all, and what only files can do wrong."""
