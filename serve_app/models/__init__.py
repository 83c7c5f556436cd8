"""Model versions: where they come from, whether they are whole, what they predict."""
