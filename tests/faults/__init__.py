"""Faults, injected into a running system under steady traffic, each request accounted for."""
