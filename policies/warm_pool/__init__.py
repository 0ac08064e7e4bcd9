"""How many loaded spares stand beside the ready replicas."""
