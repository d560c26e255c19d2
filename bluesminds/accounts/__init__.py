"""Members, their keys, and what an operator does for them: everything people do, off the request path.

This layer makes ids and times, decides, and writes each change together with its audit row in one
transaction.
"""
