"""What training and serving agree on, so that neither imports the other."""
