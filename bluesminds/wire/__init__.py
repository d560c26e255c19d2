"""Wire formats as pure functions that read and write requests, replies and streams."""
