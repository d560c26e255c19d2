"""Sends requests to servers, with failover and retries."""
