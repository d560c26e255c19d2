"""A self-hosted AI gateway in one executable."""

__version__ = "0.1.0"
