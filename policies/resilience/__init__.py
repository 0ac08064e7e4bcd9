"""What to do about failed attempts."""
