"""Laws of the emulated engine, in virtual time."""

import pytest

from fleet.engines import AffineLatency, DeviceSignals, EmulatedEngine, Engine
from fleet.messages import LoadFinished, RunFinished
from policies.base import PolicyError
from policies.building import build
from tests.engines.contexts import VirtualContext, make_work

LATENCY = AffineLatency(base_s=0.012, per_item_s=0.003)


@pytest.fixture
def ctx():
    return VirtualContext()


def test_load_takes_the_cold_start(ctx):
    EmulatedEngine(latency=LATENCY, cold_start_s=0.8).load(ctx)
    ctx.run()

    assert ctx.received == [(0.8, LoadFinished())]


def test_a_batch_takes_its_latency_and_reports_it(ctx):
    engine = EmulatedEngine(latency=LATENCY)
    engine.load(ctx)
    ctx.run(until_s=1.0)

    engine.run(7, make_work(16))
    ctx.run()

    assert ctx.received[1:] == [(1.0 + 0.06, RunFinished(7, 0.06))]


def test_a_load_told_to_fail_fails_after_the_cold_start(ctx):
    EmulatedEngine(latency=LATENCY, cold_start_s=0.5, fail_load=True).load(ctx)
    ctx.run()

    [(at_s, finished)] = ctx.received
    assert (at_s, type(finished)) == (0.5, LoadFinished)
    assert finished.error == "the load was told to fail (fail_load=True)"


def test_a_cancelled_batch_runs_on_as_on_a_device(ctx):
    engine = EmulatedEngine(latency=LATENCY)
    engine.load(ctx)
    engine.run(1, make_work(1))
    engine.cancel(1)
    ctx.run()

    assert ctx.received[1:] == [(0.015, RunFinished(1, 0.015))]


def test_an_interruptible_engine_ends_a_cancelled_batch_at_once_and_takes_the_next(ctx):
    engine = EmulatedEngine(latency=LATENCY, interruptible=True)
    engine.load(ctx)
    engine.run(1, make_work(1))
    ctx.run(until_s=0.01)
    engine.cancel(2)
    engine.cancel(1)
    engine.cancel(1)
    ctx.run(until_s=0.01)
    engine.run(3, make_work(1))
    ctx.run()

    assert ctx.received[1:] == [
        (0.01, RunFinished(1, 0.01, error="cancelled")),
        (0.025, RunFinished(3, 0.015)),
    ]


def test_cancelling_a_batch_that_has_ended_does_nothing(ctx):
    engine = EmulatedEngine(latency=LATENCY, interruptible=True)
    engine.load(ctx)
    engine.run(1, make_work(1))
    ctx.run()
    engine.cancel(1)
    ctx.run()

    assert [message for _, message in ctx.received].count(RunFinished(1, 0.015)) == 1
    assert len(ctx.received) == 2


def test_an_unloaded_engine_says_nothing_more(ctx):
    engine = EmulatedEngine(latency=LATENCY)
    engine.load(ctx)
    engine.run(1, make_work(1))
    ctx.run(until_s=0.001)
    engine.unload()
    ctx.run()

    assert ctx.received == [(0.0, LoadFinished())]


def test_an_engine_that_was_never_loaded_can_be_unloaded_and_asked_for_signals():
    engine = EmulatedEngine(latency=LATENCY)
    engine.unload()

    assert engine.signals() == DeviceSignals()


def test_noise_comes_from_the_runs_seed_and_not_from_the_replica(ctx):
    other = VirtualContext()
    other.address = "replica/1"
    noisy = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.3)
    for context, seed in ((ctx, 5), (other, 5)):
        engine = EmulatedEngine(latency=noisy).fresh()
        engine.reset(seed)
        engine.load(context)
        engine.run(1, make_work(3))
        context.run()

    assert ctx.received == other.received


def test_a_fresh_engine_has_a_fresh_latency_model():
    engine = EmulatedEngine(latency=AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.3))
    before = engine.latency.seconds(make_work(1))
    engine.fresh().reset(5)

    assert engine.latency.seconds(make_work(1)) == before


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"cold_start_s": 1.0}, r"^\$.engine.latency: emulated needs `latency`"),
        (
            {"latency": {"latency": "affine", "base_s": -1.0, "per_item_s": 0.0}},
            r"^\$.engine.latency.base_s: Expected `float` >= 0",
        ),
        (
            {"latency": {"latency": "afine"}},
            r"^\$.engine.latency.latency: there is no latency model `afine`; did you",
        ),
        ({"latency": LATENCY, "cold_start_s": -0.1}, r"^\$.engine.cold_start_s: Expected `float` >= 0"),
    ],
)
def test_a_mistake_in_the_specification_is_named(table, complaint):
    with pytest.raises(PolicyError, match=complaint):
        build(Engine, {"engine": "emulated", **table}, "$.engine")
