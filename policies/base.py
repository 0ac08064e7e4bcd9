"""What a policy is: a `msgspec.Struct`; its fields are its parameters, its other attributes are its state.

The one thing to know: a policy *decides* and nothing else. Time is an argument, randomness comes through
`reset`, an answer is a value of `policies.decisions`. The actor that asked validates, accounts and logs.

`Component` is the part that engines and latency models share with policies: a typed, named value that can
be written in TOML, and of which every copy is fresh.
"""

from __future__ import annotations

import random
import re
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from msgspec import Struct, StructMeta

from policies.decisions import (
    Admit,
    Degrade,
    Delay,
    Dispatch,
    Drop,
    Escalate,
    GiveUp,
    Hedge,
    Hold,
    Reject,
    Retry,
    Route,
    Scale,
    Serve,
    Shadow,
    Step,
    Use,
    Verdict,
    Wait,
    Warm,
)
from policies.views import (
    AnswerView,
    AttemptView,
    BatchCompletion,
    Completion,
    Ending,
    Failure,
    FleetView,
    KvView,
    PoolView,
    ProbeOutcome,
    QueueView,
    ReplicaLoad,
    ReplicaView,
    SequenceView,
    StepCompletion,
    VariantView,
    VersionView,
)
from traces.schema import Request


def kebab_case(class_name: str) -> str:
    """`PowerOfTwoChoices` -> `power-of-two-choices`: its name in TOML and on the command line."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name).lower()


class PolicyError(Exception):
    """The policy broke its contract (as opposed to `FleetError`: the world did)."""


class ComponentMeta(StructMeta, ABCMeta):
    """msgspec's metaclass joined with `ABCMeta`: a class without its decision method cannot be made."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        """Say what to write in place of `__init__`, which everyone tries first, and which a Struct cannot have."""
        if "__init__" in namespace:
            raise TypeError(
                f"{name} defines __init__; it cannot: a parameter is an annotated attribute with a default, "
                "and state is set in reset"
            )
        return super().__new__(mcs, name, bases, namespace, **options)


class Component(
    Struct, metaclass=ComponentMeta, dict=True, forbid_unknown_fields=True, tag_field="policy", tag=kebab_case
):
    """A value with typed parameters (its fields) and private state (any other attribute).

    Copying, pickling or decoding gives a fresh one with the same parameters: state never leaks between runs.
    Constructors do not check `Meta` bounds; `policies.build` does, and so building a `FleetSpec` does too.
    """

    slot: ClassVar[str] = ""

    @classmethod
    def name(cls) -> str:
        """The name it goes by in TOML and on the command line."""
        return str(cls.__struct_config__.tag)

    def parameters(self) -> dict[str, Any]:  # Any: a parameter may be of any type msgspec encodes
        """Its fields by name."""
        return {field: getattr(self, field) for field in self.__struct_fields__}

    def fresh(self) -> Any:  # Any: typing.Self needs no import cost, but msgspec cannot resolve it here
        """Another one with the same parameters and no state."""
        return type(self)(**{key: _fresh(value) for key, value in self.parameters().items()})

    def __copy__(self) -> Any:
        return self.fresh()

    def __deepcopy__(self, memo: dict[int, object]) -> Any:
        return self.fresh()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[type[Component], dict[str, Any]]]:
        return _rebuild, (type(self), self.parameters())


def _fresh(value: Any) -> Any:
    if isinstance(value, Component):
        return value.fresh()
    if isinstance(value, (list, tuple)):
        return type(value)(_fresh(item) for item in value)
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items()}
    return value


def _rebuild(cls: type[Component], parameters: dict[str, Any]) -> Component:
    return cls(**parameters)


OF_ATTEMPTS = ("on_dispatched", "on_first_token", "on_tokens", "on_completed")
OF_HEAD = (*OF_ATTEMPTS, "on_request_ended", "on_replicas")
OF_QUEUE = (*OF_ATTEMPTS, "on_batch_completed", "on_replicas")
HOOKS = (
    *OF_ATTEMPTS,
    "on_request_ended",
    "on_batch_completed",
    "on_step_completed",
    "on_replicas",
    "on_load",
)
"""Every observation hook there is. `hears` of a slot's base class says which of them its policies get."""


class Policy(Component):
    """Base of every slot. `reset` comes once before a run; the hooks tell what came of the decisions.

    A hook that a class does not override is never called, so unused ones cost nothing. Policies that are fields of
    another one, alone or in lists and dicts, are its parts: they hear what it hears. An owner that defines a method of
    this class itself passes it on to them with `super()`.
    """

    oracle: ClassVar[bool] = False
    """True: may be shown true output lengths through `reveal`, and then runs in simulation only."""
    hears: ClassVar[tuple[str, ...]] = ()
    """The hooks that actors call on policies of this slot; `docs/write-a-policy.md` says when."""

    def reset(self, rng: random.Random) -> None:
        """Forget everything. `rng`, seeded from (run seed, address), is the only allowed source of chance."""
        for part in parts_of(self):
            part.reset(rng)

    def reveal(self, output_tokens: Callable[[str], int | None]) -> None:
        """Oracle policies only, right after `reset`: `output_tokens(request_id)` is the true length."""
        for part in parts_of(self):
            if part.oracle:
                part.reveal(output_tokens)

    def on_dispatched(self, request: Request, replica: str, now_s: float) -> None:
        """`request` was sent to `replica`, to run or to wait there (once per attempt).

        Queueing and batching hear it when it leaves their queue, iteration and eviction when it comes to their replica.
        """
        for part in parts_of(self):
            part.on_dispatched(request, replica, now_s)

    def on_first_token(self, request: Request, replica: str, now_s: float) -> None:
        """An attempt at `request` has been prefilled and has its first output token (token by token serving only)."""
        for part in parts_of(self):
            part.on_first_token(request, replica, now_s)

    def on_tokens(self, request: Request, replica: str, output_tokens: int, now_s: float) -> None:
        """An attempt at `request` has so many output tokens now, those of one that it resumes included.

        After each step that gave it some (token by token serving only). Who hears this makes every step an event of
        its own, in simulation, and a message in a live fleet.
        """
        for part in parts_of(self):
            part.on_tokens(request, replica, output_tokens, now_s)

    def on_completed(self, completion: Completion, now_s: float) -> None:
        """An attempt ended, well or badly (once for each that `on_dispatched` told of)."""
        for part in parts_of(self):
            part.on_completed(completion, now_s)

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        """A request that was let in has ended, one way or another: once for each, however many attempts it had."""
        for part in parts_of(self):
            part.on_request_ended(ending, now_s)

    def on_batch_completed(self, batch: BatchCompletion, now_s: float) -> None:
        """A batch of this queue ended, well or badly; before the next one is asked for (queueing and batching only)."""
        for part in parts_of(self):
            part.on_batch_completed(batch, now_s)

    def on_step_completed(self, step: StepCompletion, now_s: float) -> None:
        """A step that this policy planned ran; after the ends of sequences that came with it (iteration only)."""
        for part in parts_of(self):
            part.on_step_completed(step, now_s)

    def on_replicas(self, replicas: Sequence[ReplicaView], now_s: float) -> None:
        """The set of replicas that may be chosen has changed; for a queue: of those that may take from it."""
        for part in parts_of(self):
            part.on_replicas(replicas, now_s)

    def on_load(self, load: ReplicaLoad, now_s: float) -> None:
        """A replica that `probes` named has answered (routing only)."""
        for part in parts_of(self):
            part.on_load(load, now_s)


def parts_of(policy: Policy) -> Iterator[Policy]:
    """The policies in the fields of `policy`, in the order of the fields; not those in the fields of these."""
    for field in policy.__struct_fields__:
        yield from _policies_in(getattr(policy, field))


def _policies_in(value: object) -> Iterator[Policy]:
    if isinstance(value, Policy):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _policies_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _policies_in(item)


def overrides(policy: Policy, method: str) -> bool:
    """True when the policy's class defines this method of `Policy` itself."""
    return getattr(type(policy), method) is not getattr(Policy, method)


def listeners(policy: Policy, hook: str) -> list[Callable[..., None]]:
    """Whom to call when `hook` is due: the policy, if its class defines it, else those of its parts that do."""
    if overrides(policy, hook):
        return [getattr(policy, hook)]
    return [listener for part in parts_of(policy) for listener in listeners(part, hook)]


def is_settled(policy: PeriodicPolicy, decision: str) -> bool:
    """What `policy.settled()` says, if it was written for this `decision` method.

    A subclass that decides otherwise, or hears of more, must say for itself.
    """
    for cls in type(policy).__mro__:
        if "settled" in vars(cls):
            return policy.settled()
        if any(method in vars(cls) for method in (decision, "after_completion", *HOOKS)):
            return False
    return False


class AdmissionPolicy(Policy):
    """Let a request in, now, later or for less, or refuse it."""

    slot = "admission"
    hears = OF_HEAD

    @abstractmethod
    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Reject | Degrade | Delay: ...


class RoutingPolicy(Policy):
    """Choose a replica for one request. `replicas` is never empty, ordered by id, ready and trusted."""

    slot = "routing"
    hears = (*OF_HEAD, "on_load")

    @abstractmethod
    def route(
        self, request: Request, replicas: Sequence[ReplicaView], now_s: float
    ) -> Route | Hold | Reject: ...

    def probes(self, request: Request, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[str]:
        """Which replicas to ask for their load, by id: at each choice, before `route`. Asked only where overridden.

        Each answers with a `ReplicaLoad` (`on_load`), after the time that two messages take. One that is gone does not
        answer. A policy that has others as its parts is asked itself if it overrides this, else each of them is.
        """
        return ()


class QueueingPolicy(Policy):
    """Own the order of waiting requests. One instance per queue."""

    slot = "queueing"
    hears = OF_QUEUE

    @abstractmethod
    def push(self, request: Request, now_s: float) -> None: ...

    @abstractmethod
    def pop(self, now_s: float) -> Request:
        """Remove and return the next request; called only when not empty."""

    @abstractmethod
    def remove(self, request_id: str) -> bool:
        """Forget a waiting request (cancelled, expired, or picked by name); False when it is not here."""

    @abstractmethod
    def __len__(self) -> int: ...

    def drops(self, now_s: float) -> Sequence[str]:
        """Waiting requests to give up, by id; they end as `shed`, and `remove` is called for each.

        Asked before each batch is formed, which is when requests leave the queue. Asked only where overridden.
        """
        return ()


class BatchingPolicy(Policy):
    """Say which waiting requests run together, when, and where, and which never will.

    Asked whenever something changed (an arrival, a free replica, a `Wait` that ran out) while at least one request
    waits and at least one replica in `idle` can take a batch; asked again after every `Dispatch` and every `Drop`.
    """

    slot = "batching"
    hears = OF_QUEUE

    @abstractmethod
    def next_batch(
        self, queue: QueueView, idle: Sequence[ReplicaView], now_s: float
    ) -> Dispatch | Wait | Drop: ...


class IterationPolicy(Policy):
    """Plan one step of continuous batching. One instance per replica.

    Asked whenever a step has ended, or something came while the engine was idle, and at least one sequence waits or
    runs. `waiting` is in the order of arrival, preempted ones first; `running` in the order of admission. A policy that
    answers `Wait` leaves the engine idle until `until_s`, or until something comes. Its hooks tell of the sequences
    on its replica.
    """

    slot = "iteration"
    hears = (*OF_ATTEMPTS, "on_step_completed")

    async_scheduling: ClassVar[bool] = False
    """The system whose scheduler this is plans each step while the one before it runs. So does the engine, unless it is
    told: `EmulatedLlmEngine.async_scheduling`."""

    @abstractmethod
    def plan(
        self, waiting: Sequence[SequenceView], running: Sequence[SequenceView], kv: KvView, now_s: float
    ) -> Step | Wait: ...


class EvictionPolicy(Policy):
    """Say which cached block goes when room is needed. One instance per cache.

    It is told of blocks that nobody holds any more and that are kept for reuse; those and no others are its candidates.
    """

    slot = "eviction"
    hears = OF_ATTEMPTS

    @abstractmethod
    def released(self, blocks: Sequence[int], now_s: float) -> None:
        """Nobody holds these any more: they are candidates now. In the order of the prompt they belong to."""

    @abstractmethod
    def reused(self, block: int, now_s: float) -> None:
        """A candidate was found by a prompt and is held again: it is none until released again."""

    def shared(self, block: int, now_s: float) -> None:
        """A block that is held, and so no candidate, was found by one more prompt."""

    @abstractmethod
    def victim(self, now_s: float) -> int:
        """Name one candidate, and forget it; called only when there is one."""

    def emptied(self, count: int, now_s: float) -> None:
        """So many blocks without content became free; at first, all. Told only where `empties` is overridden."""

    def empties(self, at_most: int, now_s: float) -> int:
        """How many of the blocks without content are taken before the next `victim`, `at_most` so many; they are taken.

        By default all: nothing is evicted while there are such. 0 only while there is a candidate.
        """
        return at_most

    @abstractmethod
    def __len__(self) -> int:
        """How many candidates there are."""


class PeriodicPolicy(Policy):
    """Base of the slots that are asked again and again, whether anything happened or not."""

    def settled(self) -> bool:
        """True: shown again what it was shown last, at whatever later time, it says the same and stays as it is.

        Virtual time then passes over idle periods, in which it would be shown just that. False is always right: then it
        is asked in every period.
        """
        return False


class ScalingPolicy(PeriodicPolicy):
    """Say how many replicas a pool should have. Asked every `control_interval_s`."""

    slot = "scaling"
    hears = OF_HEAD

    @abstractmethod
    def desired(self, pool: PoolView, now_s: float) -> Scale: ...


class WarmPoolPolicy(PeriodicPolicy):
    """Say how many loaded spares a pool should keep beside its ready replicas."""

    slot = "warm_pool"
    hears = OF_HEAD

    @abstractmethod
    def desired(self, pool: PoolView, now_s: float) -> Warm: ...


class HealthPolicy(PeriodicPolicy):
    """Turn probe outcomes into trust. One instance sees the probes of every replica."""

    slot = "health"
    hears = OF_HEAD

    @abstractmethod
    def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
        """A verdict when trust changes, else None."""

    def after_completion(self, completion: Completion, now_s: float) -> Verdict | None:
        """Likewise, of an attempt that ended at a replica, well or badly. Asked only where overridden."""
        return None


class RetryPolicy(Policy):
    """Say what to do after a failed attempt, and how long one attempt may take."""

    slot = "retry"
    hears = OF_HEAD

    @abstractmethod
    def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp: ...

    def attempt_limit_s(self, request: Request, attempt: int, now_s: float) -> float | None:
        """How long this attempt (1: the first) may take from being sent to its answer; None: as long as it takes.

        Then it is withdrawn, and has failed (`timed-out`). Asked only where it is overridden.
        """
        return None


class HedgePolicy(Policy):
    """Say whether, and when, a request gets another attempt beside those that it has. One instance per variant."""

    slot = "hedge"
    hears = OF_HEAD

    @property
    def budget_ratio(self) -> float | None:
        """Attempts that this policy may add, over the requests let in: at most so many at every moment.

        The router holds to it. None: no bound. A policy that has one makes it a field, and so a parameter.
        """
        return None

    @abstractmethod
    def after_s(self, request: Request, attempts: Sequence[AttemptView], now_s: float) -> Hedge | None:
        """Asked each time that an attempt was sent; `attempts` are those that are live, the oldest first.

        When the time of a `Hedge` has come and the request has no answer, one more attempt goes to a replica that has
        none of this request, which the routing policy chooses; where there is none, nothing is sent.
        """


class BreakerPolicy(Policy):
    """Say which replicas may get work at all, beside what health checks say of them. One instance per variant."""

    slot = "breaker"
    hears = OF_HEAD

    @abstractmethod
    def allows(self, replica: ReplicaView, now_s: float) -> bool:
        """May routing choose this replica now? Asked of each candidate at each choice, so it must change nothing."""

    def none_allowed(
        self, request: Request, replicas: Sequence[ReplicaView], now_s: float
    ) -> Hold | Reject | None:
        """It allows none of `replicas`: what becomes of the request. None: routing chooses as if all were allowed."""
        return None


class RolloutPolicy(Policy):
    """Say which version of its model serves a request. One instance per model."""

    slot = "rollout"
    hears = (*OF_ATTEMPTS, "on_request_ended")

    stage = ""
    """Where the rollout is, in words such as ``canary 5 %`` or ``rolled back: p99 above the gate``. Set it in `reset`
    and whenever it changes: each change is in the run's decisions, and is what `fleet rollout status` shows."""

    @abstractmethod
    def choose(self, request: Request, versions: Sequence[VersionView], now_s: float) -> Serve | Shadow:
        """`versions` are those that are served, in the order in which they were declared or deployed; never empty.

        A request that pins a version (``model@version``) is not asked about.
        """

    def destination(self, *, back: bool) -> str | None:
        """The version that gets requests, or more of them, by `rollback` (`back`) or by `promote`; None: none does.

        An operator's word is refused where no pool serves it. Asked only then.
        """
        return None

    def promote(self, now_s: float) -> None:
        """An operator says: one stage on, whatever the gates say. Raises `PolicyError` where there is no next one."""
        raise PolicyError(f"{self.name()} has no stages to promote")

    def rollback(self, now_s: float) -> None:
        """An operator says: back to the old version, for good."""
        raise PolicyError(f"{self.name()} has nothing to roll back")


class VariantsPolicy(Policy):
    """Say which variant of the chosen version serves a request. One instance per model."""

    slot = "variants"
    hears = (*OF_ATTEMPTS, "on_request_ended")

    @abstractmethod
    def choose(self, request: Request, variants: Sequence[VariantView], now_s: float) -> Use | Reject:
        """`variants` are those that are served, in the order in which they were declared or deployed; never empty."""

    def after_answer(
        self, request: Request, answer: AnswerView, variants: Sequence[VariantView], now_s: float
    ) -> Escalate | None:
        """A good answer has come: None gives it to the client, `Escalate` asks a variant that has not been asked yet.

        Asked only where it is overridden; a client of such a model hears nothing before the answer is accepted. Should
        what comes after an `Escalate` fail, or the deadline pass, the client gets the answer that is there.
        """
        return None


SLOTS: dict[str, type[Policy]] = {
    base.slot: base
    for base in (
        AdmissionPolicy, RoutingPolicy, QueueingPolicy, BatchingPolicy, IterationPolicy, EvictionPolicy,
        ScalingPolicy, WarmPoolPolicy, HealthPolicy, RetryPolicy, HedgePolicy, BreakerPolicy, RolloutPolicy,
        VariantsPolicy,
    )
}  # fmt: skip
"""Every slot's base class by the slot's name (the field's name in a FleetSpec, a pool or a model)."""
