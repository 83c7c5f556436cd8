"""Starts and stops the whole system on one machine: what `make run` and the container run."""
