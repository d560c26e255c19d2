"""Kinds of model servers, as tables of values and pure functions. The demo server is in `demo`."""
