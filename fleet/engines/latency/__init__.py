"""How long work takes on a device that is not here: batches, steps, and the measured tables behind both."""
