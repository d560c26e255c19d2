"""Values and tools that every layer may use."""
