"""What was measured, by us or by others: read, checked, and interpolated."""
