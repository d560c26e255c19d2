"""The control plane's endpoints, one module an area."""
