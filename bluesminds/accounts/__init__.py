"""Accounts: users, sessions, API keys, limits, servers and the audit log, off the request path.

This layer creates ids and times, makes the decisions, and writes each change together with its audit row in
one transaction.
"""
