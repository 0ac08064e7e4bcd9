"""What a fleet serves, as its router knows it: models, their versions, the variants of these, and the pools of those.

The one thing to know: a request finds its variant here, on the way model, version, variant; a policy is asked where
there is a choice and nowhere else. A fleet of one pool that answers for every model has no way to go: `only` is all
there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fleet.actors.serving import Desk, Variant
from fleet.actors.windows import SAID_COUNTS, Window
from fleet.blame import blaming, demand_stage
from fleet.pools import DEFAULT, Pool
from fleet.telemetry.sink import Telemetry
from policies.base import PolicyError, RolloutPolicy, VariantsPolicy
from policies.decisions import Reject, Serve, Shadow, Use
from policies.rollout.pinned import Pinned
from policies.variants.fixed_variant import FixedVariant
from policies.views import Latencies, VariantView, VersionView
from traces.schema import Request


class Choice(NamedTuple):
    """What serves a request."""

    variant: Variant
    shadow: Variant | None = None
    """What answers it too, and is not heard."""


class Refusal(NamedTuple):
    """Why nothing does."""

    slot: str
    reason: str | None


class Model:
    """What clients ask for: its versions and their variants, in the order in which they came."""

    def __init__(self, name: str, rollout: RolloutPolicy, variants: VariantsPolicy) -> None:
        self.name = name
        self.rollout, self.variants_policy = rollout, variants
        self.versions: dict[str, dict[str, Variant]] = {}
        self.stage = ""
        """Of its rollout, as it was last written down."""

    @property
    def choosy(self) -> bool:
        """Some policy chooses among its versions or variants, or might when there are more."""
        return not (type(self.rollout) is Pinned and type(self.variants_policy) is FixedVariant)

    @property
    def escalates(self) -> bool:
        """Its variants policy judges answers."""
        return type(self.variants_policy).after_answer is not VariantsPolicy.after_answer

    def served(self) -> Iterator[Variant]:
        """All its variants."""
        for variants in self.versions.values():
            yield from variants.values()


class Catalogue:
    """Finds who serves a request."""

    def __init__(self, telemetry: Telemetry, window_s: float) -> None:
        self._telemetry = telemetry
        self._window_s = window_s
        self.models: dict[str, Model] = {}
        self.desks: dict[str, Desk] = {}
        """By pool."""
        self.variants: dict[str, Variant] = {}
        """By pool, those that are retired and have replicas left included."""
        self.only: Variant | None = None
        """Whatever a request asks for; None: that matters."""
        self.straight: dict[str | None, Variant] = {}
        """By what a request says of its model: the one variant there is, where no policy has a say."""

    # --- what there is -----------------------------------------------------------------------------------------

    def find(self, pool: Pool) -> Variant | None:
        """The variant that this pool is one of, if it is served already."""
        model = self.models.get(pool.model)
        return None if model is None else model.versions.get(pool.version, {}).get(pool.variant)

    def add(self, desk: Desk, variant: Variant, model: Model, now_s: float) -> None:
        """One more pool."""
        pool = desk.pool
        self.models.setdefault(pool.model, model)
        model.versions.setdefault(pool.version, {})[pool.variant] = variant
        variant.add(desk)
        variant.escalates = desk.escalates = model.escalates
        self.desks[pool.name] = desk
        self.variants[pool.name] = variant
        self._look(model, now_s)

    def retire(self, desk: Desk) -> Variant:
        """It is chosen no more; what was its last pool, variant or version is served no more. Answers its variant."""
        pool = desk.pool
        model, variant = self.models[pool.model], self.variants[pool.name]
        variant.retire(desk)
        if not variant.desks:
            variants = model.versions[pool.version]
            del variants[pool.variant]
            if not variants:
                del model.versions[pool.version]
            if not model.versions:
                del self.models[pool.model]
        self._find_only()
        return variant

    def forget(self, pool: str) -> None:
        """The last of its replicas has gone."""
        self.desks.pop(pool, None)
        self.variants.pop(pool, None)

    def steer(self, model: Model, rollout: RolloutPolicy, now_s: float) -> None:
        """Another policy chooses its version from now on."""
        model.rollout = rollout
        self._look(model, now_s)

    def _look(self, model: Model, now_s: float) -> None:
        """Keep windows where somebody looks at them."""
        if model.choosy:
            for variant in model.served():
                variant.window = variant.window or Window(self._window_s, now_s)
        self._find_only()

    def _find_only(self) -> None:
        model = self.models.get(DEFAULT)
        served = list(model.served()) if model is not None and len(self.models) == 1 else []
        self.only = served[0] if len(served) == 1 and model is not None and not model.choosy else None
        self.straight = {
            name: variants[0]
            for name, model in self.models.items()
            if name != DEFAULT and not model.choosy and len(variants := list(model.served())) == 1
        }

    # --- choosing ----------------------------------------------------------------------------------------------

    def choose(self, request: Request, now_s: float) -> Choice | Refusal:
        """Model, version, variant."""
        name, at, pin = (request.model or "").partition("@")
        model = self.models.get(name) or self.models.get(DEFAULT)
        if model is None and not name and len(self.models) == 1:
            model = next(iter(self.models.values()))
        if model is None:
            asked = f"model {name!r}" if name else "no model"
            return Refusal("model", f"it asks for {asked}; served are {self._served()}")
        if at:
            if pin not in model.versions:
                return Refusal("model", f"it asks for {request.model!r}; served are {self._served()}")
            return self._variant(model, pin, request, now_s)
        if len(model.versions) == 1 and type(model.rollout) is Pinned:
            return self._variant(model, next(iter(model.versions)), request, now_s)
        return self._version(model, request, now_s)

    def _served(self) -> str:
        served = [f"{model.name}@{version}" for model in self.models.values() for version in model.versions]
        return ", ".join(served) or "none"

    def _version(self, model: Model, request: Request, now_s: float) -> Choice | Refusal:
        policy = model.rollout
        views = tuple(
            VersionView(version=version, **_known(model.name, variants.values(), now_s))
            for version, variants in model.versions.items()
        )
        try:
            decision = policy.choose(request, views, now_s)
        except Exception as error:
            raise blaming(policy, error, request.id, now_s) from error
        if not isinstance(decision, (Serve, Shadow)):
            raise PolicyError(
                f"rollout policy {policy.name()} answered {decision!r}; expected Serve or Shadow"
            )
        self.note_stage(model, now_s)
        if decision.reason is not None:
            self._telemetry.decided(
                now_s,
                "rollout",
                request.id,
                type(decision).__name__,
                choice=decision.version,
                reason=decision.reason,
            )
        self._demand_served(policy, decision.version, model.versions, request, now_s)
        choice = self._variant(model, decision.version, request, now_s)
        if isinstance(decision, Serve) or isinstance(choice, Refusal):
            return choice
        self._demand_served(policy, decision.shadow, model.versions, request, now_s)
        if decision.shadow == decision.version:
            raise PolicyError(
                f"rollout policy {policy.name()} has request {request.id!r} shadowed by the version that serves it, "
                f"{decision.version!r}"
            )
        shadow = self._variant(model, decision.shadow, request, now_s)
        return choice if isinstance(shadow, Refusal) else Choice(choice.variant, shadow.variant)

    def _variant(self, model: Model, version: str, request: Request, now_s: float) -> Choice | Refusal:
        variants, policy = model.versions[version], model.variants_policy
        if len(variants) == 1 and type(policy) is FixedVariant:
            return Choice(next(iter(variants.values())))
        try:
            decision = policy.choose(request, self.variant_views(model, version, now_s), now_s)
        except Exception as error:
            raise blaming(policy, error, request.id, now_s) from error
        if isinstance(decision, Reject):
            return Refusal("variants", decision.reason)
        if not isinstance(decision, Use):
            raise PolicyError(
                f"variants policy {policy.name()} answered {decision!r}; expected Use or Reject"
            )
        if decision.reason is not None:
            self._telemetry.decided(
                now_s, "variants", request.id, "Use", choice=decision.variant, reason=decision.reason
            )
        self._demand_served(policy, decision.variant, variants, request, now_s)
        return Choice(variants[decision.variant])

    def variant_views(self, model: Model, version: str, now_s: float) -> tuple[VariantView, ...]:
        """What a variants policy is shown."""
        return tuple(
            VariantView(
                variant=name,
                version=version,
                capabilities=tuple(
                    dict.fromkeys(item for desk in variant.desks for item in desk.pool.capabilities)
                ),
                **_known(model.name, (variant,), now_s),
            )
            for name, variant in model.versions[version].items()
        )

    def described(self, now_s: float) -> dict[str, Any]:  # Any: JSON values
        """How every model stands, in plain values."""
        return {
            model.name: {
                "rollout": model.rollout.name(),
                "stage": model.rollout.stage,
                "variants": model.variants_policy.name(),
                "versions": {
                    version: {
                        **_plain(_known(model.name, variants.values(), now_s)),
                        **(
                            {} if model.choosy else dict.fromkeys(("completions", "failures"))
                        ),  # nobody counts
                        "pools": [desk.pool.name for item in variants.values() for desk in item.desks],
                    }
                    for version, variants in model.versions.items()
                },
            }
            for model in self.models.values()
        }

    def note_stage(self, model: Model, now_s: float) -> None:
        """Write down where its rollout is, if that has changed."""
        stage = model.rollout.stage
        if stage != model.stage:
            demand_stage(model.rollout)
            model.stage = stage
            self._telemetry.decided(now_s, "rollout", model.name, stage)

    def _demand_served(
        self,
        policy: RolloutPolicy | VariantsPolicy,
        name: object,
        served: Iterable[str],
        request: Request,
        now_s: float,
    ) -> None:
        if not isinstance(name, str):
            raise PolicyError(
                f"{policy.slot} policy {policy.name()} named {name!r} for request {request.id!r} at {now_s:.6f} s; "
                f"expected the name of one that is served, which is text (served: {', '.join(served)})"
            )
        if name not in served:
            raise PolicyError(
                f"{policy.slot} policy {policy.name()} named {name!r} for request {request.id!r} at {now_s:.6f} s, "
                f"which is not served (served: {', '.join(served)})"
            )


def _known(
    model: str, variants: Iterable[Variant], now_s: float
) -> dict[str, Any]:  # Any: fields of a `ServedView`
    """What is known of these variants together."""
    variants = tuple(variants)
    windows = [variant.window for variant in variants if variant.window is not None]
    for window in windows:
        window.look(now_s)
    desks = [desk for variant in variants for desk in variant.desks]
    prices = [desk.pool.cost_per_hour for desk in desks if desk.pool.cost_per_hour is not None]
    services = [time_s for desk in desks if (time_s := desk.expected_service_s) is not None]
    said = [desk.pool.quality for desk in desks if desk.pool.quality is not None]
    ended = sum(window.ended for window in windows)
    judged = sum(window.judged for window in windows)
    rated = sum(window.rated for window in windows)
    return {
        "model": model,
        "ready": sum(len(variant.roster.candidates) for variant in variants),
        "in_flight": sum(desk.demand.in_flight for desk in desks),
        "queue_depth": sum(desk.demand.waiting for desk in desks),
        "completions": sum(window.completions for window in windows),
        "failures": sum(window.failures for window in windows),
        "e2e_s": _joined([window.e2e_s for window in windows]),
        "ttft_s": _joined([window.ttft_s for window in windows]),
        "error_fraction": sum(window.failed for window in windows) / ended if ended else None,
        "attainment": sum(window.attained for window in windows) / judged if judged else None,
        "quality": _quality(said, rated, sum(window.quality for window in windows)),
        "cost_per_hour": max(prices, default=None),
        "expected_service_s": min(services, default=None),
        "as_of_s": min((window.as_of_s for window in windows), default=now_s),
    }


def _quality(said: list[float], rated: int, total: float) -> float | None:
    """The mean of what was rated and what pools say, which counts as so many answers; None: nobody says anything."""
    if not said:
        return total / rated if rated else None
    return (SAID_COUNTS * sum(said) / len(said) + total) / (SAID_COUNTS + rated)


def _plain(known: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """The same for a person to read: latencies by their median and tail."""
    latencies = {name: known.pop(name) for name in ("e2e_s", "ttft_s")}
    return {
        **known,
        **{f"{name}_p50": value.p50 for name, value in latencies.items()},
        **{f"{name}_p99": value.p99 for name, value in latencies.items()},
    }


def _joined(latencies: list[Latencies]) -> Latencies:
    if len(latencies) == 1:
        return latencies[0]
    return Latencies(tuple(value for item in latencies for value in item.values_s))
