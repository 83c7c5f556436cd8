"""How a new version takes over the traffic, step by step, and what it must show on the way."""
