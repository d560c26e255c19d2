"""Bytes to requests and back: the listening side and the outbound pool. Knows nothing about models."""
