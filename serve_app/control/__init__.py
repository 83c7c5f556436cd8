"""Which version takes which traffic: decided here, followed by ingresses and workers."""
