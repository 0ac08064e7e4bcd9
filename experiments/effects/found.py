"""Every effect there is: found by looking, so that a module with `EFFECTS` needs no word anywhere else."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import experiments.effects
from experiments.effects.effect import Effect


@cache
def all_effects() -> tuple[Effect, ...]:
    """Those of all modules beside this one, by the names of these."""
    names = sorted(module.name for module in iter_modules(experiments.effects.__path__))
    modules = [import_module(f"experiments.effects.{name}") for name in names]
    return tuple(effect for module in modules for effect in getattr(module, "EFFECTS", ()))
