"""How long a step of continuous batching takes."""
