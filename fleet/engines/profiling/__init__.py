"""How an engine is measured: one alone on this thread, batch by batch or step by step."""
