"""Measures the service and its peers on the same model and the same bodies: `make bench`."""
