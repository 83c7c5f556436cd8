"""HTTP in, HTTP out: what stands in front of Serve, routes, endpoints."""
