"""Rate limits, quotas and budgets."""
