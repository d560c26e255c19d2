"""Composition: builds services and the data plane, and serves them."""
