"""Policies that write down what they hear: one for each slot, each deciding as a shipped one does."""

from typing import Any, TypeVar

from policies import (
    AdmitAll,
    AlwaysTrust,
    Fifo,
    Fixed,
    FixedVariant,
    Greedy,
    InFlightScorer,
    LeastOutstanding,
    Lru,
    MaxScorePicker,
    NoBreaker,
    NoHedge,
    NoRetry,
    NotFullFilter,
    NoWarmPool,
    Pinned,
    Policy,
    VllmTokenBudget,
)
from policies.base import HOOKS

DECIDES: dict[str, type[Policy]] = {
    cls.slot: cls
    for cls in (
        AdmitAll, LeastOutstanding, Fifo, Greedy, VllmTokenBudget, Lru, Fixed, NoWarmPool, AlwaysTrust, NoRetry,
        NoHedge, NoBreaker, Pinned, FixedVariant, NotFullFilter, InFlightScorer, MaxScorePicker,
    )
}  # fmt: skip

P = TypeVar("P", bound=Policy)
Heard = list[tuple[Any, ...]]
"""Name of the hook, its arguments, and when."""


def listening(
    slot: str, *hooks: str, parent: type[Policy] | None = None, parameters: dict[str, Any] | None = None
) -> tuple[Policy, Heard]:
    """A policy of this slot that hears these hooks (all of them, unless told otherwise), and what it hears.

    It decides as `parent` does, and lets that hear too.
    """
    heard: Heard = []
    base = parent or DECIDES[slot]

    def hook(name: str) -> Any:
        def method(self: Policy, *told: Any) -> None:
            heard.append((name, *told))
            getattr(base, name)(self, *told)

        method.__name__ = name
        return method

    methods = {name: hook(name) for name in hooks or HOOKS}
    if "on_load" in base.hears:  # nobody hears of a load that nobody asked for
        methods["probes"] = lambda self, request, replicas, now_s: [view.id for view in replicas]
    cls = derived(f"Listening{base.__name__}", base, methods)
    return cls(**(parameters or {})), heard


def derived(name: str, parent: type[P], methods: dict[str, Any]) -> type[P]:
    """A class made by name, which is of this module, and so none of those that are shipped."""
    made: type[P] = type(name, (parent,), {**methods, "__module__": __name__})
    return made


def told(heard: Heard, name: str) -> Heard:
    """The calls of one hook, short of its name."""
    return [call[1:] for call in heard if call[0] == name]
