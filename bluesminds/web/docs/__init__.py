"""The API reference: OpenAPI and its page."""
