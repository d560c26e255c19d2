"""Relays requests for objects at servers: files, batches, vector stores and others."""
