"""Whom to trust, from what probes say."""
