"""A package, so that its Ray head ends with its last test."""
