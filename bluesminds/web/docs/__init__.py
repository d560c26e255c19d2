"""The API reference: the OpenAPI document and the HTML page."""
