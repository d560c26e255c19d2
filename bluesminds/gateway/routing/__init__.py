"""Which servers can answer a request, and in which order."""
