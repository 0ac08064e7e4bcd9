"""Policies: pure, synchronous decisions about running a fleet. One policy is one small class.

Write one by subclassing the base of its slot (`RoutingPolicy`, `BatchingPolicy`, ...); answer with a value of
`policies.decisions`. `policies.testing` checks that it keeps its contract.
"""

import lazy_loader

# What is exported stands in `__init__.pyi`. A policy's module is loaded when it is first asked for, by name or by
# attribute, so that the library may grow and `import policies` stays fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
