"""Which version of its model serves a request."""
