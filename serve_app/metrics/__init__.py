"""What `/metrics` says: counted by each ingress, gathered by the controller, shown by any one."""
