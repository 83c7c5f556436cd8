"""The service described to people and generators."""
