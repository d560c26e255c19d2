"""The ASGI application: the data plane under /v1, and the control plane on Quart."""
