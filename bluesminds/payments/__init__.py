"""Payment providers, each in one file behind the port in `port.py`."""
