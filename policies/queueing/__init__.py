"""Who waits, and who goes first."""
