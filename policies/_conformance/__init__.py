"""What `policies.testing` is made of; only that module is public."""
