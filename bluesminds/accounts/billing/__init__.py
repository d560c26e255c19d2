"""Plans, orders, subscriptions and payments of accounts.

`Billing` in service.py is the entry point. settlement.py brings an account to the state at a payment
provider, in one transaction; everything else reads that state, or calls the provider to change it.
"""
