"""A whole fleet, from a spec to a result: `simulate`, `replay`, `serve`. The one place that wires actors together."""
