"""WebSockets between clients and servers."""
