"""What engines run on: devices and models by their figures, the sizes of caches, the counters of real devices."""
