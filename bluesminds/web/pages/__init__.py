"""HTML pages that mailed links lead to."""
