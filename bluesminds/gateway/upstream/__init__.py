"""Sending a request to servers, with failover."""
