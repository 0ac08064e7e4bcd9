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
    BreakerPolicy,
    Component,
    EvictionPolicy,
    HealthPolicy,
    HedgePolicy,
    IterationPolicy,
    Policy,
    PolicyError,
    QueueingPolicy,
    RetryPolicy,
    RolloutPolicy,
    RoutingPolicy,
    ScalingPolicy,
    VariantsPolicy,
    WarmPoolPolicy,
)
from policies.batching.clipper_aimd import ClipperAimd
from policies.batching.greedy import Greedy
from policies.batching.no_batching import NoBatching
from policies.batching.window import Window
from policies.building import build
from policies.decisions import (
    Admit,
    Decision,
    Degrade,
    Dispatch,
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
from policies.eviction.gdsf import Gdsf
from policies.eviction.keyed import KeyedEviction
from policies.eviction.lfu import Lfu
from policies.eviction.lru import Lru
from policies.eviction.oldest_first import OldestFirst
from policies.health.always_trust import AlwaysTrust
from policies.health.consecutive_failures import ConsecutiveFailures
from policies.iteration.deadline_first import DeadlineFirst
from policies.iteration.fast_serve import FastServe
from policies.iteration.orca import Orca
from policies.iteration.sarathi import Sarathi
from policies.iteration.shortest_predicted import ShortestPredicted
from policies.iteration.shortest_remaining_oracle import ShortestRemainingOracle
from policies.iteration.static_batch import StaticBatch
from policies.iteration.vllm_prefill_first import VllmPrefillFirst
from policies.iteration.vllm_token_budget import VllmTokenBudget
from policies.queueing.earliest_deadline import EarliestDeadline
from policies.queueing.fifo import Fifo
from policies.queueing.keyed import KeyedQueue
from policies.queueing.priority import Priority
from policies.queueing.shortest_prompt import ShortestPrompt
from policies.queueing.virtual_token_counter import VirtualTokenCounter
from policies.registry import describe
from policies.resilience.attempt_timeout import AttemptTimeout
from policies.resilience.circuit_breaker import CircuitBreaker
from policies.resilience.exponential_backoff import ExponentialBackoff
from policies.resilience.hedge_after_percentile import HedgeAfterPercentile
from policies.resilience.no_breaker import NoBreaker
from policies.resilience.no_hedge import NoHedge
from policies.resilience.no_retry import NoRetry
from policies.resilience.outlier_ejection import OutlierEjection
from policies.resilience.tied_requests import TiedRequests
from policies.rollout.ab_test import ABTest
from policies.rollout.blue_green import BlueGreen
from policies.rollout.canary import Canary
from policies.rollout.feature_flag import FeatureFlag
from policies.rollout.gated import GatedRollout
from policies.rollout.gates import Gates
from policies.rollout.pinned import Pinned
from policies.rollout.ramp import Ramp
from policies.rollout.shadow_traffic import ShadowTraffic
from policies.routing.busy_scorer import BusyScorer
from policies.routing.cheapest_meeting_delay import CheapestMeetingDelay
from policies.routing.composed import Composed
from policies.routing.expected_delay_scorer import ExpectedDelayScorer
from policies.routing.fresh_filter import FreshFilter
from policies.routing.in_flight_scorer import InFlightScorer
from policies.routing.kv_cost import KvCost
from policies.routing.kv_utilization_scorer import KvUtilizationScorer
from policies.routing.least_outstanding import LeastOutstanding
from policies.routing.least_tokens import LeastTokens
from policies.routing.least_work_oracle import LeastWorkOracle
from policies.routing.max_score_picker import MaxScorePicker
from policies.routing.never_queue import NeverQueue
from policies.routing.not_full_filter import NotFullFilter
from policies.routing.parts import Filter, Picker, Scorer
from policies.routing.power_of_two_choices import PowerOfTwoChoices
from policies.routing.prefix_affinity import PrefixAffinity
from policies.routing.prefix_scorer import PrefixScorer
from policies.routing.random import Random
from policies.routing.round_robin import RoundRobin
from policies.routing.session_affinity import SessionAffinity
from policies.routing.shortest_expected_delay import ShortestExpectedDelay
from policies.routing.softmax_picker import SoftmaxPicker
from policies.routing.weighted_random import WeightedRandom
from policies.scaling.fixed import Fixed
from policies.scaling.latency_target import LatencyTarget
from policies.scaling.queue_depth import QueueDepth
from policies.scaling.target_kv_utilization import TargetKvUtilization
from policies.scaling.target_utilization import TargetUtilization
from policies.variants.by_capability import ByCapability
from policies.variants.cascade import Cascade
from policies.variants.cheapest_meeting_slo import CheapestMeetingSlo
from policies.variants.degrade_under_load import DegradeUnderLoad
from policies.variants.fixed_variant import FixedVariant
from policies.views import (
    AnswerView,
    AttemptView,
    BatchCompletion,
    Completion,
    Ending,
    Failure,
    FleetView,
    KvView,
    Latencies,
    PoolView,
    ProbeOutcome,
    QueueView,
    ReplicaView,
    SequenceView,
    StepCompletion,
    TokenSignals,
    VariantView,
    VersionView,
)
from policies.warm_pool.fixed_size import FixedSize
from policies.warm_pool.no_warm_pool import NoWarmPool
from traces.schema import Request

__all__ = [
    "SLOTS",
    "ABTest",
    "AdmissionPolicy",
    "Admit",
    "AdmitAll",
    "AlwaysTrust",
    "AnswerView",
    "AttemptTimeout",
    "AttemptView",
    "BatchCompletion",
    "BatchingPolicy",
    "BlueGreen",
    "BreakerPolicy",
    "BusyScorer",
    "ByCapability",
    "Canary",
    "Cascade",
    "CheapestMeetingDelay",
    "CheapestMeetingSlo",
    "CircuitBreaker",
    "ClipperAimd",
    "Completion",
    "Component",
    "Composed",
    "ConsecutiveFailures",
    "DeadlineFirst",
    "Decision",
    "Degrade",
    "DegradeUnderLoad",
    "Dispatch",
    "EarliestDeadline",
    "Ending",
    "Escalate",
    "EvictionPolicy",
    "ExpectedDelayScorer",
    "ExponentialBackoff",
    "Failure",
    "FastServe",
    "FeatureFlag",
    "Fifo",
    "Filter",
    "Fixed",
    "FixedSize",
    "FixedVariant",
    "FleetView",
    "FreshFilter",
    "GatedRollout",
    "Gates",
    "Gdsf",
    "GiveUp",
    "Greedy",
    "HealthPolicy",
    "Hedge",
    "HedgeAfterPercentile",
    "HedgePolicy",
    "Hold",
    "InFlightScorer",
    "IterationPolicy",
    "KeyedEviction",
    "KeyedQueue",
    "KvCost",
    "KvUtilizationScorer",
    "KvView",
    "Latencies",
    "LatencyTarget",
    "LeastOutstanding",
    "LeastTokens",
    "LeastWorkOracle",
    "Lfu",
    "Lru",
    "MaxScorePicker",
    "NeverQueue",
    "NoBatching",
    "NoBreaker",
    "NoHedge",
    "NoRetry",
    "NoWarmPool",
    "NotFullFilter",
    "OldestFirst",
    "Orca",
    "OutlierEjection",
    "Picker",
    "Pinned",
    "Policy",
    "PolicyError",
    "PoolView",
    "PowerOfTwoChoices",
    "PrefixAffinity",
    "PrefixScorer",
    "Priority",
    "ProbeOutcome",
    "QueueDepth",
    "QueueLimit",
    "QueueView",
    "QueueingPolicy",
    "Ramp",
    "Random",
    "Reject",
    "ReplicaView",
    "Request",
    "Retry",
    "RetryPolicy",
    "RolloutPolicy",
    "RoundRobin",
    "Route",
    "RoutingPolicy",
    "Sarathi",
    "Scale",
    "ScalingPolicy",
    "Scorer",
    "SequenceView",
    "Serve",
    "SessionAffinity",
    "Shadow",
    "ShadowTraffic",
    "ShortestExpectedDelay",
    "ShortestPredicted",
    "ShortestPrompt",
    "ShortestRemainingOracle",
    "SoftmaxPicker",
    "StaticBatch",
    "Step",
    "StepCompletion",
    "TargetKvUtilization",
    "TargetUtilization",
    "TiedRequests",
    "TokenSignals",
    "Use",
    "VariantView",
    "VariantsPolicy",
    "Verdict",
    "VersionView",
    "VirtualTokenCounter",
    "VllmPrefillFirst",
    "VllmTokenBudget",
    "Wait",
    "Warm",
    "WarmPoolPolicy",
    "WeightedRandom",
    "Window",
    "build",
    "describe",
]
