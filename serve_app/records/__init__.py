"""Bytes into rows by the model's signature, strictly."""
