"""Which cached block goes when room is needed."""
