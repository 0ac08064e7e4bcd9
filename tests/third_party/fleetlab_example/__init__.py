"""Three policies for fleetlab: one that routes, one that batches, one that scales."""
