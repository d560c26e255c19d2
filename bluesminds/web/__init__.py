"""The doors: ASGI in, the walk for /v1, Quart for everything else."""
