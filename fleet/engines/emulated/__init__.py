"""Engines that take the time a model would, and do nothing else."""
