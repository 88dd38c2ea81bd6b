"""Each rule of docs/ARCHITECTURE.md, on servers that are stepped by hand."""
