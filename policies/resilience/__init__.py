"""What to do about slowness and failure: another attempt after one, beside one, or none at some replicas."""
