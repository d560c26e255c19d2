"""Outgoing notifications, one module per channel."""
