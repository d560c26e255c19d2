"""Rate limits, quotas and budgets: one synchronous decision."""
