"""Packages, so that no folder here is taken for a package of the project with the same name."""
