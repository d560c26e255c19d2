"""Responses that can be read again and continued. The gateway stores them, or the server that made them."""
