"""Telling policies what came of their decisions: which of them listen, and who of them lives in another actor.

What nobody hears is not built and not sent: an actor asks `hooks.on_completed` before it makes a `Completion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from fleet.actor import Actor
from fleet.blame import tell
from fleet.messages import Message, Told
from policies.base import HOOKS, Policy, listeners
from policies.views import ReplicaView

Handlers = dict[type[Message], Callable[[Any], None]]  # Any: each handler takes its own type
Hook = tuple[Callable[..., None], ...]


class Hooks:
    """Of some policies: whom to call for each hook. Empty: nobody listens."""

    __slots__ = HOOKS

    on_dispatched: Hook
    on_first_token: Hook
    on_tokens: Hook
    on_completed: Hook
    on_request_ended: Hook
    on_batch_completed: Hook
    on_step_completed: Hook
    on_replicas: Hook
    on_load: Hook

    def __init__(self, *policies: Policy) -> None:
        for name in HOOKS:
            told = [policy for policy in policies if name in policy.hears]
            setattr(self, name, tuple(listener for policy in told for listener in listeners(policy, name)))

    def wanted(self) -> frozenset[str]:
        """The names of those that somebody listens to."""
        return frozenset(name for name in HOOKS if getattr(self, name))

    def hear(self, message: Told, now_s: float) -> None:
        """Another actor tells what it saw."""
        for name, arguments in message.calls:
            tell(getattr(self, name), now_s, *arguments)


Calls = dict[str, list[tuple[str, tuple[Any, ...]]]]
"""What other actors have yet to be told, by address."""


class Announcer:
    """Tells policies here at once, and those of other actors by a message for each one that this actor handled.

    `elsewhere` has the hooks that each of the others wants, by address; what is to be sent is put into `calls`, which
    several announcers of one actor may share. An attribute for each hook says whether anybody at all listens to it.
    """

    __slots__ = ("_calls", "_elsewhere", "_here", "_send", "of_attempts", *HOOKS)

    on_dispatched: bool
    on_first_token: bool
    on_tokens: bool
    on_completed: bool
    on_request_ended: bool
    on_batch_completed: bool
    on_step_completed: bool
    on_replicas: bool
    on_load: bool

    def __init__(
        self,
        *here: Policy,
        elsewhere: Mapping[str, frozenset[str]],
        calls: Calls,
        send: Callable[[str, Message], None] | None = None,
    ) -> None:
        """`send`: for an actor that does not look into `calls`; then each call is a message of its own."""
        self._send = send
        self._here = Hooks(*here)
        self._elsewhere = {address: wanted for address, wanted in elsewhere.items() if wanted}
        self._calls = calls
        for name in HOOKS:
            away = any(name in wanted for wanted in self._elsewhere.values())
            setattr(self, name, away or bool(getattr(self._here, name)))
        self.of_attempts = self.on_first_token or self.on_tokens or self.on_completed

    @property
    def reaches_others(self) -> bool:
        """Some policy that listens lives in another actor."""
        return bool(self._elsewhere)

    def tell(self, hook: str, now_s: float, *arguments: Any) -> None:  # Any: those of the hook
        """Call this hook, or have it called."""
        tell(getattr(self._here, hook), now_s, *arguments)
        for address, wanted in self._elsewhere.items():
            if hook in wanted:
                self._call(address, hook, arguments)

    def tell_replicas(self, address: str, views: Sequence[ReplicaView]) -> None:
        """Have the policies of one other actor told who may be chosen, as far as that concerns them."""
        if "on_replicas" in self._elsewhere.get(address, ()):
            # A message must not change after it was sent, and views are kept up to date in place.
            lasting = tuple(replace(view) for view in views)
            self._call(address, "on_replicas", (lasting,))

    def _call(self, address: str, hook: str, arguments: tuple[Any, ...]) -> None:
        if self._send is not None:
            self._send(address, Told([(hook, arguments)]))
        else:
            self._calls.setdefault(address, []).append((hook, arguments))


def telling(actor: Actor, calls: Calls, handlers: Handlers) -> Handlers:
    """These handlers of the actor that tells, after each of which the other actors are sent what is in `calls`."""
    return {kind: _then_send(actor, calls, handler) for kind, handler in handlers.items()}


def _then_send(actor: Actor, calls: Calls, handler: Callable[[Any], None]) -> Callable[[Any], None]:
    def handle(message: Message) -> None:
        handler(message)
        if calls:
            told = list(calls.items())
            calls.clear()
            for address, its in told:
                actor.ctx.send(address, Told(its))

    return handle
