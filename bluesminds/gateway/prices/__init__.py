"""Prices of models: the operator's, and those that come with the gateway."""
