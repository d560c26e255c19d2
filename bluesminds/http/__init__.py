"""HTTP: the listener (server/), the upstream client (client/), and what they share."""
