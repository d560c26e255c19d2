"""Selects the servers for a request."""
