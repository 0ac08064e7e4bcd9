"""Measuring an engine, and reading the measurement back."""

import pytest

from fleet.actor import FleetError
from fleet.engines import (
    AffineLatency,
    BatchEngine,
    EmulatedEngine,
    Profile,
    ProfiledLatency,
    TorchEngine,
    profile_engine,
)
from fleet.messages import LoadFinished, Payload
from tests.engines.contexts import make_work

AFFINE = AffineLatency(base_s=0.5, per_item_s=0.25)


def test_the_profile_of_an_emulated_engine_is_its_latency_model_and_takes_no_time():
    profile = profile_engine(EmulatedEngine(latency=AFFINE, cold_start_s=100.0), (1, 3, 8), repeats=3)

    assert [(point.batch_size, point.tokens) for point in profile.points] == [(1, 0), (3, 0), (8, 0)]
    for point in profile.points:
        assert point.min_s == point.median_s == point.p90_s == AFFINE.seconds(make_work(point.batch_size))
    assert profile.load_s == pytest.approx(100.0, abs=0.5)
    assert profile.engine["engine"] == "emulated"


def test_figures_of_a_noisy_engine_are_in_order_and_surround_its_mean():
    noisy = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.3)
    [point] = profile_engine(EmulatedEngine(latency=noisy), (1,), repeats=200).points

    assert point.min_s < point.median_s < point.p90_s
    assert point.median_s == pytest.approx(1.0, abs=0.1)
    assert point.p90_s == pytest.approx(1.4, abs=0.15)


def test_a_saved_profile_is_read_back_and_predicts_what_was_measured(tmp_path):
    path = tmp_path / "profile.json"
    profile = profile_engine(EmulatedEngine(latency=AFFINE), (1, 4), (0, 16), repeats=2)
    profile.save(path)

    assert Profile.load(path) == profile
    model = ProfiledLatency(profile=str(path))
    assert [model.seconds(make_work(n)) for n in (1, 2, 4, 9)] == [
        AFFINE.seconds(make_work(n)) for n in (1, 2, 4, 9)
    ]


def test_every_point_is_told_as_it_is_done():
    told = []
    profile = profile_engine(EmulatedEngine(latency=AFFINE), (1, 2), repeats=1, on_point=told.append)

    assert tuple(told) == profile.points


def test_an_engine_that_fails_to_load_is_named():
    with pytest.raises(FleetError, match=r"the engine failed to load: the load was told to fail"):
        profile_engine(EmulatedEngine(latency=AFFINE, fail_load=True), (1,))


def test_an_engine_that_never_answers_is_an_error_and_not_a_hang():
    class Silent(BatchEngine):
        def load(self, ctx):
            ctx.after(0.0, LoadFinished())

        def run(self, batch, work):
            pass

    with pytest.raises(FleetError, match="the engine did not send RunFinished"):
        profile_engine(Silent(), (1,))


def test_a_torch_engine_is_measured_with_the_versions_and_the_machine():
    torch = pytest.importorskip("torch")
    engine = TorchEngine(module="tests.engines.modules:TokenMean", device="cpu")
    profile = profile_engine(engine, (1, 4), (8, 32), repeats=3)

    assert [(point.batch_size, point.tokens) for point in profile.points] == [
        (1, 8),
        (1, 32),
        (4, 8),
        (4, 32),
    ]
    assert all(0.0 < point.min_s <= point.median_s <= point.p90_s < 1.0 for point in profile.points)
    assert profile.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert {"cpu", "cpu_cores", "system", "torch_threads"} <= profile.machine.keys()


def test_a_batch_that_fails_is_named_by_its_size():
    pytest.importorskip("torch")
    engine = TorchEngine(module="tests.engines.modules:Fails", device="cpu")

    with pytest.raises(
        FleetError, match=r"failed at batch size 2: batch of 2: RuntimeError: cannot take \(2, 3\)"
    ):
        profile_engine(engine, (2,), payload=lambda request: Payload(tensor=_zeros()))


def _zeros():
    import numpy as np

    return np.zeros(3, dtype=np.float32)
