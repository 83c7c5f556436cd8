"""The Ray Serve application: an ingress over HTTP and replicated model workers behind it."""
