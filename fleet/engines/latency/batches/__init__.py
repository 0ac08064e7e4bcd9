"""How long a batch of whole requests takes."""
