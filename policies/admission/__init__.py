"""Whether a request is let in at all."""
