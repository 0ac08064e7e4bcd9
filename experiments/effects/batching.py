"""Batching: what its sources claim. One device whose batches cost a fixed part and a part for each request."""

from __future__ import annotations

from functools import partial

from experiments.effects.effect import Effect
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run
from policies import ClipperAimd, Greedy, NoBatching
from policies.batching.clockwork_deadline import ClockworkDeadline
from policies.batching.lazy_drop import LazyDrop
from policies.batching.nexus_early_drop import NexusEarlyDrop
from policies.batching.ray_serve_batch import RayServeBatch
from policies.batching.symphony_deferred import SymphonyDeferred
from policies.batching.triton_dynamic import TritonDynamic
from traces import Slo, Trace, mmpp, poisson

SLO_S = 0.1
DEVICE = EmulatedEngine(latency=AffineLatency(base_s=0.025, per_item_s=0.001))
"""A batch of 25 takes 50 ms, so a device serves 500 a second at most; one at a time, 38 a second."""

FLEET = FleetSpec(engine=DEVICE, max_inflight_batches=1)
BY_DEADLINE = FleetSpec(engine=DEVICE, max_inflight_batches=1, slo=Slo(e2e_s=SLO_S))


def steady(seed: int, *, rate_per_s: float, duration_s: float) -> Trace:
    """Poisson arrivals."""
    return poisson(rate_per_s, duration_s, seed=seed)


def due(seed: int, *, rate_per_s: float, duration_s: float) -> Trace:
    """Poisson arrivals, each to be answered within the objective."""
    return steady(seed, rate_per_s=rate_per_s, duration_s=duration_s).with_slo(e2e_s=SLO_S)


def bursts(seed: int) -> Trace:
    """Four fifths of a device's capacity on average, twice it now and then."""
    return mmpp((200.0, 1000.0), (3.0, 1.0), 8.0, seed=seed).with_slo(e2e_s=SLO_S)


def throughput(run: Run) -> float:
    """Requests completed per second."""
    return run.summary.throughput_per_s


def batch_size(run: Run) -> float:
    """Mean over batches."""
    return run.summary.batch_size_mean or 0.0


def in_time(run: Run) -> float:
    """Of a hundred requests, those that met their objective."""
    return 100.0 * (run.summary.slo_attainment or 0.0)


def utilization(run: Run) -> float:
    """Of a hundred seconds, those in which a replica's engine ran."""
    return 100.0 * (run.summary.utilization or 0.0)


EFFECTS: tuple[Effect, ...] = (
    Effect(
        policy="TritonDynamic",
        claim="a batch created of several requests typically gives more throughput",
        trace=partial(steady, rate_per_s=200.0, duration_s=5.0),
        candidate=FLEET.replace(batching=TritonDynamic(max_batch=16)),
        baseline=FLEET.replace(batching=NoBatching()),
        against="NoBatching",
        figure="throughput (1/s)",
        read=throughput,
        better="higher",
    ),
    Effect(
        policy="TritonDynamic",
        claim="a delay in the queue gives requests time to join, so that batches are larger",
        trace=partial(steady, rate_per_s=200.0, duration_s=5.0),
        candidate=FLEET.replace(batching=TritonDynamic(max_batch=16, max_queue_delay_s=0.05)),
        baseline=FLEET.replace(batching=TritonDynamic(max_batch=16)),
        against="TritonDynamic without delay",
        figure="batch size",
        read=batch_size,
        better="higher",
    ),
    Effect(
        policy="RayServeBatch",
        claim="batching improves throughput",
        trace=partial(steady, rate_per_s=200.0, duration_s=5.0),
        candidate=FLEET.replace(batching=RayServeBatch()),
        baseline=FLEET.replace(batching=NoBatching()),
        against="NoBatching",
        figure="throughput (1/s)",
        read=throughput,
        better="higher",
    ),
    Effect(
        policy="NexusEarlyDrop",
        claim="early drop answers more requests in time than lazy drop does, at rates near capacity",
        trace=partial(due, rate_per_s=500.0, duration_s=6.0),
        candidate=BY_DEADLINE.replace(batching=NexusEarlyDrop(max_batch=25)),
        baseline=BY_DEADLINE.replace(batching=LazyDrop(max_batch=25)),
        against="LazyDrop",
        figure="in time (%)",
        read=in_time,
        better="higher",
    ),
    Effect(
        policy="LazyDrop",
        claim="to drop what is late anyway leaves time for others, where otherwise all are late",
        trace=partial(due, rate_per_s=600.0, duration_s=5.0),
        candidate=BY_DEADLINE.replace(batching=LazyDrop(max_batch=25)),
        baseline=BY_DEADLINE.replace(batching=Greedy(max_batch=25)),
        against="Greedy",
        figure="in time (%)",
        read=in_time,
        better="higher",
    ),
    Effect(
        policy="ClipperAimd",
        claim="adaptive batching gives far more throughput than none, within the latency objective",
        trace=partial(steady, rate_per_s=300.0, duration_s=5.0),
        candidate=FLEET.replace(batching=ClipperAimd(objective_s=SLO_S / 2)),
        baseline=FLEET.replace(batching=NoBatching()),
        against="NoBatching",
        figure="throughput (1/s)",
        read=throughput,
        better="higher",
    ),
    Effect(
        policy="ClockworkDeadline",
        claim="more requests meet their objective than with batches that adapt by trying (Clipper), in bursts",
        trace=bursts,
        candidate=BY_DEADLINE.replace(batching=ClockworkDeadline(max_batch=64)),
        baseline=BY_DEADLINE.replace(batching=ClipperAimd(objective_s=SLO_S / 2)),
        against="ClipperAimd",
        figure="in time (%)",
        read=in_time,
        better="higher",
    ),
    Effect(
        policy="SymphonyDeferred",
        claim="batches that are put off need less of the devices for the same load, all still in time",
        trace=partial(due, rate_per_s=500.0, duration_s=6.0),
        candidate=BY_DEADLINE.replace(
            replicas=3, binding="late", batching=SymphonyDeferred(max_batch=64, margin_s=0.001)
        ),
        baseline=BY_DEADLINE.replace(replicas=3, binding="late", batching=Greedy(max_batch=64)),
        against="Greedy",
        figure="utilisation (%)",
        read=utilization,
        better="lower",
    ),
    Effect(
        policy="SymphonyDeferred",
        claim="more requests in time with the same devices than when batches begin at once, at high load",
        trace=partial(due, rate_per_s=1800.0, duration_s=2.0),
        candidate=BY_DEADLINE.replace(
            replicas=3, binding="late", batching=SymphonyDeferred(max_batch=64, margin_s=0.001)
        ),
        baseline=BY_DEADLINE.replace(replicas=3, binding="late", batching=ClockworkDeadline(max_batch=64)),
        against="ClockworkDeadline",
        figure="in time (%)",
        read=in_time,
        better="higher",
    ),
)
