"""A whole fleet as one typed value: what it runs, how many, and which policy fills each slot.

Written in Python, in TOML or in JSON, it is the same value. Building one validates everything, parameters of
policies included; every error names its path (`$.routing.choices`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from fleet.engines.base import Engine
from fleet.network import NetworkModel
from policies import (
    AdmissionPolicy,
    AdmitAll,
    BatchingPolicy,
    ConsecutiveFailures,
    EvictionPolicy,
    ExponentialBackoff,
    Fifo,
    Fixed,
    Greedy,
    HealthPolicy,
    IterationPolicy,
    LeastOutstanding,
    Lru,
    NoWarmPool,
    PolicyError,
    QueueingPolicy,
    RetryPolicy,
    RoutingPolicy,
    ScalingPolicy,
    VllmTokenBudget,
    WarmPoolPolicy,
)
from policies.base import Component
from policies.building import build, checked_value, to_table
from traces.schema import Slo

Positive = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class FleetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fleet. Fields that hold a policy take an instance, or a table such as ``{"policy": "greedy"}``.

    Raises `PolicyError` that names the path of what is wrong.
    """

    engine: Engine
    """What executes a batch; each replica gets a fresh one."""
    replicas: Count = 1
    """How many there are, loaded and ready, when a run begins."""
    min_replicas: Annotated[int, Meta(ge=0)] | None = None
    """Bounds of what a scaling policy may ask for; None: `replicas`."""
    max_replicas: Count | None = None
    binding: Literal["early", "late"] = "early"
    """`early`: the routing policy chooses a replica on arrival, and each replica has a queue. `late`: one queue for
    the pool, and batches are pulled for whichever replica is free."""

    admission: AdmissionPolicy = field(default_factory=AdmitAll)
    routing: RoutingPolicy = field(default_factory=LeastOutstanding)
    queueing: QueueingPolicy = field(default_factory=Fifo)
    batching: BatchingPolicy = field(default_factory=Greedy)
    iteration: IterationPolicy = field(default_factory=VllmTokenBudget)
    """Plans each step of a replica that serves token by token; the others have no use for it."""
    eviction: EvictionPolicy = field(default_factory=Lru)
    """Likewise: which cached key-value block goes when room is needed."""
    scaling: ScalingPolicy = field(default_factory=Fixed)
    warm_pool: WarmPoolPolicy = field(default_factory=NoWarmPool)
    health: HealthPolicy = field(default_factory=ConsecutiveFailures)
    retry: RetryPolicy = field(default_factory=ExponentialBackoff)

    max_inflight_batches: Count | None = None
    """Batches a replica may hold. None: what its engine can make use of: 2 where whole requests run a batch at a time
    (one runs, the next waits at the door), 1,024 where batches are formed anew at each step."""
    queue_capacity: Count = 100_000
    """Requests that may wait for a replica; one more is shed."""
    poison_limit: Count = 3
    """A request whose attempts ended with the loss of so many replicas (a crash, a failed health check) is failed, and
    named, whatever the retry policy says: what kills its replicas must not go on to the next one without end."""
    deadline_s: Positive | None = None
    """For requests that bring none of their own."""
    slo: Slo | None = None
    """Objectives to report against, for requests that bring none of their own."""
    weights: tuple[Positive, ...] = ()
    """Relative speed of replica 0, 1, … as policies are told (repeated when there are more); it changes no engine."""

    control_interval_s: Positive = 1.0
    """Period of the autoscaler's loop, and of the time series."""
    report_interval_s: Positive = 0.25
    """Period of the replicas' reports: how stale a reported signal can get."""
    probe_interval_s: Positive = 1.0
    probe_timeout_s: Positive = 0.5
    deep_probe_interval_s: Positive | None = None
    """Period of deep probes, which run a request through the engine; None: there are none."""
    failed_grace_s: Annotated[float, Meta(ge=0)] = 5.0
    """How long a replica that failed its health checks may take to recover before it is ended."""
    start_timeout_s: Positive = 600.0
    """A replica that is neither ready nor warm so long after it was asked for is ended, and another one started. A wait
    for a place that a fault has put out of order does not count."""
    failed_starts_limit: Count = 6
    """When so many starts in a row have failed and no replica is ready, requests that wait for one fail too, with the
    reason, and so at each further failure. Starts are tried for ever, up to 30 s apart; 6 take 16 s and six loads."""
    lease_s: Positive = 3.0
    """A replica's process from which nothing is heard for longer is taken for dead, ended and replaced.
    Processes of other hosts (`fleet join`) bring a lease of their own, of 3 s."""
    provision_s: Annotated[float, Meta(ge=0)] = 0.0
    """Simulation: from the request for a replica to the start of its process."""
    network: NetworkModel = NetworkModel()
    """Simulation: the network between the head and its replicas."""

    def __post_init__(self) -> None:
        for name, base in COMPONENTS.items():
            force_setattr(self, name, build(base, getattr(self, name), f"$.{name}"))
        for name, annotation in _plain_types().items():
            force_setattr(self, name, checked_value(annotation, getattr(self, name), f"$.{name}"))
        low, high = self.bounds
        if not low <= self.replicas <= high:
            raise PolicyError(
                f"$.replicas: {self.replicas} is not within min_replicas={low} and max_replicas={high}"
            )

    @property
    def inflight(self) -> int:
        """`max_inflight_batches`, or the engine's own number."""
        return self.max_inflight_batches or self.engine.inflight_batches

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas a scaling policy can get."""
        low = self.replicas if self.min_replicas is None else self.min_replicas
        high = self.replicas if self.max_replicas is None else self.max_replicas
        return low, high

    def replace(self, **changes: Any) -> FleetSpec:  # Any: each field has its own type, checked on building
        """The same fleet with some fields changed."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return from_mapping({**fields, **changes})

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Plain values that `from_mapping` reads back; components of one's own as ``module:Class``."""
        return {
            name: to_table(value)
            if isinstance(value := getattr(self, name), Component)
            else msgspec.to_builtins(value)
            for name in self.__struct_fields__
        }


COMPONENTS: dict[str, type[Component]] = {
    "engine": Engine,
    "admission": AdmissionPolicy,
    "routing": RoutingPolicy,
    "queueing": QueueingPolicy,
    "batching": BatchingPolicy,
    "iteration": IterationPolicy,
    "eviction": EvictionPolicy,
    "scaling": ScalingPolicy,
    "warm_pool": WarmPoolPolicy,
    "health": HealthPolicy,
    "retry": RetryPolicy,
}
"""The fields that hold a component, and its base class."""


@cache
def _plain_types() -> dict[str, Any]:  # Any: annotations
    """The types of all other fields."""
    hints = get_type_hints(FleetSpec, include_extras=True)
    return {name: hints[name] for name in FleetSpec.__struct_fields__ if name not in COMPONENTS}


def from_mapping(values: Mapping[str, Any]) -> FleetSpec:  # Any: checked here
    """A spec from plain values, such as TOML holds."""
    import difflib

    for name in values:
        if name not in FleetSpec.__struct_fields__:
            close = difflib.get_close_matches(name, FleetSpec.__struct_fields__, 1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise PolicyError(f"$.{name}: a fleet has no such field{hint}")
    if "engine" not in values:
        raise PolicyError(
            '$.engine: missing; a fleet needs one, such as {engine = "emulated", latency = {...}}'
        )
    return FleetSpec(**values)


def load_spec(path: str | Path) -> FleetSpec:
    """Read a spec from a TOML or a JSON file. Raises `PolicyError` that names the file and the path within it."""
    file = Path(path)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise PolicyError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        values = msgspec.json.decode(text) if file.suffix == ".json" else tomllib.loads(text.decode())
        return from_mapping(values)
    except UnicodeDecodeError:
        raise PolicyError(f"{file}: is not text; a fleet is written in TOML or JSON") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise PolicyError(f"{file}: {error}") from None
    except PolicyError as error:
        raise PolicyError(f"{file}: {error}") from None
