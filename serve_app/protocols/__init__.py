"""The protocols that clients speak, each turned into rows and back."""
