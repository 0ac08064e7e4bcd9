"""Telling policies what came of their decisions: which of them listen, and who of them lives in another actor.

What nobody hears is not built and not sent: an actor asks `hooks.on_completed` before it makes a `Completion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from fleet.actor import Actor
from fleet.actors.pending import Pending
from fleet.blame import tell
from fleet.messages import Message, Told, Usage
from policies.base import HOOKS, Policy, listeners
from policies.views import FailureKind

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


class Announcer:
    """Tells policies here at once, and those of other actors by a message for each one that this actor handled.

    `elsewhere` has the hooks that each of the others wants, by address. An attribute for each hook says whether
    anybody at all listens to it.
    """

    __slots__ = ("_calls", "_elsewhere", "_here", "of_attempts", *HOOKS)

    on_dispatched: bool
    on_first_token: bool
    on_tokens: bool
    on_completed: bool
    on_request_ended: bool
    on_batch_completed: bool
    on_step_completed: bool
    on_replicas: bool

    def __init__(self, *here: Policy, elsewhere: Mapping[str, frozenset[str]]) -> None:
        self._here = Hooks(*here)
        self._elsewhere = {address: wanted for address, wanted in elsewhere.items() if wanted}
        self._calls: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
        """What the others have yet to be told."""
        for name in HOOKS:
            away = any(name in wanted for wanted in self._elsewhere.values())
            setattr(self, name, away or bool(getattr(self._here, name)))
        self.of_attempts = self.on_first_token or self.on_tokens or self.on_completed

    def telling(self, actor: Actor, handlers: Handlers) -> Handlers:
        """These handlers of the actor that tells, after each of which the other actors are told."""
        if not self._elsewhere:
            return handlers
        return {kind: self._then_send(actor, handler) for kind, handler in handlers.items()}

    def tell(self, hook: str, now_s: float, *arguments: Any) -> None:  # Any: those of the hook
        """Call this hook, or have it called."""
        tell(getattr(self._here, hook), now_s, *arguments)
        for address, wanted in self._elsewhere.items():
            if hook in wanted:
                self._calls.setdefault(address, []).append((hook, _lasting(hook, arguments)))

    def tokens_came(self, pending: Pending, replica: str, tokens: int, now_s: float) -> None:
        """The current attempt has so many output tokens now. A message that was overtaken says nothing new."""
        if not pending.first_token:
            pending.first_token = True
            if pending.first_token_s is None:
                pending.first_token_s = now_s
            if self.on_first_token:
                self.tell("on_first_token", now_s, pending.request, replica)
        if self.on_tokens and tokens > pending.told:
            pending.told = tokens
            self.tell("on_tokens", now_s, pending.request, replica, tokens)

    def attempt_ended(
        self,
        pending: Pending,
        failure: FailureKind | None,
        now_s: float,
        service_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        """The current attempt ended; of tokens that were lost on the way it is told before."""
        if usage is not None and self.of_attempts and usage.output_tokens > pending.resumed:
            self.tokens_came(pending, pending.replica or "", usage.output_tokens, now_s)
        if self.on_completed:
            self.tell("on_completed", now_s, pending.completion(failure, now_s, service_s, usage))

    def _then_send(self, actor: Actor, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        def handle(message: Message) -> None:
            handler(message)
            if self._calls:
                calls, self._calls = self._calls, {}
                for address, told in calls.items():
                    actor.ctx.send(address, Told(told))

        return handle


def _lasting(hook: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A message must not change after it was sent, and views are kept up to date in place."""
    return (tuple(replace(view) for view in arguments[0]),) if hook == "on_replicas" else arguments
