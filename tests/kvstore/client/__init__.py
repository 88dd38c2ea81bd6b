"""The clients: their core driven by hand, then over real sockets against fake servers."""
