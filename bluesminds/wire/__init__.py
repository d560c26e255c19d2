"""Wire formats as pure functions: what requests, replies and streams say, and how they are written."""
