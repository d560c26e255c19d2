"""The request pipeline: authenticate, authorize, route, reserve limits, send, meter, record usage."""
