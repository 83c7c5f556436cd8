"""From an ingress to the workers: coalesced, over connections of our own."""
