"""Policies: pure, synchronous decisions about running a fleet. One policy is one small class.

Write one by subclassing the base of its slot (`RoutingPolicy`, `BatchingPolicy`, ...); answer with a value of
`policies.decisions`. `policies.testing` checks that it keeps its contract.
"""

from policies.admission.admit_all import AdmitAll
from policies.admission.queue_limit import QueueLimit
from policies.base import (
    SLOTS,
    AdmissionPolicy,
    BatchingPolicy,
    Component,
    HealthPolicy,
    Policy,
    PolicyError,
    QueueingPolicy,
    RetryPolicy,
    RoutingPolicy,
    ScalingPolicy,
    WarmPoolPolicy,
)
from policies.batching.greedy import Greedy
from policies.batching.no_batching import NoBatching
from policies.batching.window import Window
from policies.decisions import (
    Admit,
    Decision,
    Degrade,
    Dispatch,
    GiveUp,
    Hold,
    Reject,
    Retry,
    Route,
    Scale,
    Verdict,
    Wait,
    Warm,
)
from policies.health.always_trust import AlwaysTrust
from policies.health.consecutive_failures import ConsecutiveFailures
from policies.queueing.earliest_deadline import EarliestDeadline
from policies.queueing.fifo import Fifo
from policies.queueing.keyed import KeyedQueue
from policies.queueing.priority import Priority
from policies.queueing.shortest_prompt import ShortestPrompt
from policies.registry import build, describe
from policies.resilience.exponential_backoff import ExponentialBackoff
from policies.resilience.no_retry import NoRetry
from policies.routing.busy_scorer import BusyScorer
from policies.routing.composed import Composed
from policies.routing.fresh_filter import FreshFilter
from policies.routing.in_flight_scorer import InFlightScorer
from policies.routing.least_outstanding import LeastOutstanding
from policies.routing.least_work_oracle import LeastWorkOracle
from policies.routing.max_score_picker import MaxScorePicker
from policies.routing.not_full_filter import NotFullFilter
from policies.routing.parts import Filter, Picker, Scorer
from policies.routing.power_of_two_choices import PowerOfTwoChoices
from policies.routing.random import Random
from policies.routing.round_robin import RoundRobin
from policies.routing.softmax_picker import SoftmaxPicker
from policies.routing.weighted_random import WeightedRandom
from policies.scaling.fixed import Fixed
from policies.scaling.queue_depth import QueueDepth
from policies.scaling.target_utilization import TargetUtilization
from policies.views import (
    Completion,
    Failure,
    FleetView,
    PoolView,
    ProbeOutcome,
    QueueView,
    ReplicaView,
)
from policies.warm_pool.fixed_size import FixedSize
from policies.warm_pool.no_warm_pool import NoWarmPool
from traces.schema import Request

__all__ = [
    "SLOTS",
    "AdmissionPolicy",
    "Admit",
    "AdmitAll",
    "AlwaysTrust",
    "BatchingPolicy",
    "BusyScorer",
    "Completion",
    "Component",
    "Composed",
    "ConsecutiveFailures",
    "Decision",
    "Degrade",
    "Dispatch",
    "EarliestDeadline",
    "ExponentialBackoff",
    "Failure",
    "Fifo",
    "Filter",
    "Fixed",
    "FixedSize",
    "FleetView",
    "FreshFilter",
    "GiveUp",
    "Greedy",
    "HealthPolicy",
    "Hold",
    "InFlightScorer",
    "KeyedQueue",
    "LeastOutstanding",
    "LeastWorkOracle",
    "MaxScorePicker",
    "NoBatching",
    "NoRetry",
    "NoWarmPool",
    "NotFullFilter",
    "Picker",
    "Policy",
    "PolicyError",
    "PoolView",
    "PowerOfTwoChoices",
    "Priority",
    "ProbeOutcome",
    "QueueDepth",
    "QueueLimit",
    "QueueView",
    "QueueingPolicy",
    "Random",
    "Reject",
    "ReplicaView",
    "Request",
    "Retry",
    "RetryPolicy",
    "RoundRobin",
    "Route",
    "RoutingPolicy",
    "Scale",
    "ScalingPolicy",
    "Scorer",
    "ShortestPrompt",
    "SoftmaxPicker",
    "TargetUtilization",
    "Verdict",
    "Wait",
    "Warm",
    "WarmPoolPolicy",
    "WeightedRandom",
    "Window",
    "build",
    "describe",
]
