"""Identity verification, one module per method."""
