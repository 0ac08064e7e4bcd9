"""Which waiting requests run together, when, and where."""
