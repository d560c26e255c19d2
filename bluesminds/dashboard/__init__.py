"""The web pages for users and administrators, under /dashboard. Pages are GET only: every change is a call of
the JSON API by a script.
"""
