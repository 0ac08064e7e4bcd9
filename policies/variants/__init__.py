"""Which variant of a version serves a request: its size, its precision, what it can do."""
