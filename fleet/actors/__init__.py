"""The state machines of a fleet. They account; they neither decide (policies do) nor move bytes (runtimes do)."""
