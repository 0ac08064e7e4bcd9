"""Laws of the latency models."""

import itertools
import math
import os
import random
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engines import (
    DEVICES,
    AffineLatency,
    DeviceSpec,
    LatencyModel,
    Profile,
    ProfiledLatency,
    ProfilePoint,
    RooflineLatency,
)
from fleet.messages import Work
from policies.base import PolicyError
from policies.building import build
from tests.engines.contexts import make_work
from traces.schema import Request

# --- affine ------------------------------------------------------------------------------------------------


@given(base=st.floats(0, 10), per_item=st.floats(0, 10), size=st.integers(1, 64))
def test_affine_latency_is_base_plus_per_item_for_each_item(base, per_item, size):
    assert AffineLatency(base_s=base, per_item_s=per_item).seconds(make_work(size)) == base + per_item * size


def test_an_item_counts_as_much_as_its_work_and_as_one_without():
    work = [*make_work(2), *make_work(1, work=2.5), *make_work(1, work=0.0)]

    assert AffineLatency(base_s=1.0, per_item_s=2.0).seconds(work) == 1.0 + 2.0 * (1 + 1 + 2.5 + 0.0)


# --- jitter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0])
def test_jitter_has_mean_one_and_the_coefficient_of_variation_asked_for(cv):
    count = 20_000
    model = AffineLatency(base_s=2.0, per_item_s=0.0, jitter_cv=cv)
    model.reset(7)

    seconds = [model.seconds(make_work(1, prefix=f"batch-{i}")) for i in range(count)]

    assert statistics.fmean(seconds) / 2.0 == pytest.approx(1.0, abs=4 * cv / math.sqrt(count))
    assert statistics.stdev(seconds) / statistics.fmean(seconds) == pytest.approx(cv, rel=0.1)


def test_the_same_batch_has_the_same_noise_in_any_order_after_anything():
    work, other = make_work(8), make_work(3, prefix="other")
    first, second = (AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.5) for _ in range(2))
    for model in (first, second):
        model.reset(3)
    second.seconds(other)

    assert first.seconds(work) == second.seconds(work[::-1])


def test_noise_differs_by_seed_by_batch_and_by_attempt():
    model = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.5)
    work = make_work(2)
    retried = [Work(item.request, attempt=2) for item in work]
    seconds = [model.seconds(work), model.seconds(work[:1]), model.seconds(retried)]
    for seed in (1, -1, 2**70):
        model.reset(seed)
        seconds.append(model.seconds(work))

    assert len(set(seconds)) == len(seconds)


def test_attempts_of_neighbouring_names_are_not_confused():
    model = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.5)
    eleven = [Work(Request("1", 0.0), attempt=1), Work(Request("1", 0.0), attempt=11)]
    one = [Work(Request("11", 0.0), attempt=1), Work(Request("1", 0.0), attempt=1)]

    assert model.seconds(eleven) != model.seconds(one)


def test_noise_is_the_same_in_another_process_with_another_hash_seed():
    script = (
        "from tests.engines.contexts import make_work; from fleet.engines import AffineLatency;"
        "model = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.5); model.reset(11);"
        "print(model.seconds(make_work(5)).hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, check=True, text=True,
        ).stdout.strip()
        for hash_seed in ("0", "1234")
    }  # fmt: skip
    model = AffineLatency(base_s=1.0, per_item_s=0.0, jitter_cv=0.5)
    model.reset(11)

    assert printed == {model.seconds(make_work(5)).hex()}


# --- profiled ----------------------------------------------------------------------------------------------


@st.composite
def grids(draw, ordered=False):
    """Points of a full grid; `ordered`: seconds that do not fall along either axis."""
    sizes = draw(st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True).map(sorted))
    lengths = draw(st.lists(st.integers(0, 4000), min_size=1, max_size=5, unique=True).map(sorted))
    seconds = st.floats(0.0, 10.0)
    table = {point: draw(seconds) for point in itertools.product(sizes, lengths)}
    if ordered:
        table = {
            (size, length): sum(s for (a, b), s in table.items() if a <= size and b <= length)
            for size, length in table
        }
    return tuple((size, length, s) for (size, length), s in table.items())


@given(points=grids(ordered=True))
def test_a_profiled_latency_is_exact_at_its_knots(points):
    model = ProfiledLatency(points=points)

    assert all(model.at(size, length) == seconds for size, length, seconds in points)


@given(
    points=grids(),
    a=st.tuples(st.floats(0, 300), st.floats(0, 9000)),
    step=st.tuples(st.floats(0, 200), st.floats(0, 9000)),
)
def test_a_profiled_latency_never_falls_inside_its_table_or_beyond_it(points, a, step):
    model = ProfiledLatency(points=points)

    before, after = model.at(*a), model.at(a[0] + step[0], a[1] + step[1])

    assert before <= after + 1e-9 * max(1.0, after)


@given(points=grids(ordered=True), where=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_profiled_latency_lies_between_the_corners_of_its_cell(points, where):
    model = ProfiledLatency(points=points)
    (low_size, high_size), (low, high) = (
        (min(axis), max(axis)) for axis in list(zip(*points, strict=True))[:2]
    )
    size, length = low_size + where[0] * (high_size - low_size), low + where[1] * (high - low)
    around = (
        [s for (n, t, s) in points if n <= size and t <= length],
        [s for (n, t, s) in points if n >= size and t >= length],
    )

    assert max(around[0]) - 1e-9 <= model.at(size, length) <= min(around[1]) + 1e-9


def test_a_profiled_latency_is_linear_between_knots():
    model = ProfiledLatency(points=((1, 100, 1.0), (3, 100, 2.0), (1, 200, 2.0), (3, 200, 5.0)))

    assert model.at(2, 100) == 1.5
    assert model.at(1, 150) == 1.5
    assert model.at(2, 150) == 2.5


def test_beyond_its_table_the_last_slope_goes_on_and_before_it_the_first_point_holds():
    model = ProfiledLatency(points=((2, 0, 1.0), (4, 0, 2.0), (8, 0, 3.0)))

    assert model.at(16, 0) == 3.0 + 8 * 0.25
    assert model.at(1, 0) == 1.0
    assert model.at(4, 500) == 2.0


def test_from_one_point_time_grows_in_proportion():
    model = ProfiledLatency(points=((4, 100, 2.0),))

    assert model.at(8, 100) == pytest.approx(4.0)
    assert model.at(4, 300) == pytest.approx(6.0)
    assert model.at(8, 300) == pytest.approx(12.0)


def test_a_plane_is_continued_exactly():
    points = tuple((n, t, 1 + 2 * n + 3 * t + 4 * n * t) for n in (1, 5, 9) for t in (0, 10))
    model = ProfiledLatency(points=points)

    assert model.at(20, 50) == pytest.approx(1 + 2 * 20 + 3 * 50 + 4 * 20 * 50)


def test_a_batch_is_looked_up_at_its_cost_and_its_longest_prompt():
    model = ProfiledLatency(points=tuple((n, t, n + t / 100) for n in (1, 2, 10) for t in (8, 100, 200)))

    assert model.seconds([*make_work(1, prompt_tokens=50), *make_work(1, prompt_tokens=150)]) == 2 + 1.5
    assert model.seconds(make_work(2, work=2.5, prompt_tokens=100)) == 5 + 1
    assert model.seconds(make_work(2)) == 2 + 0.08


def _profile(*points):
    return Profile(engine={"engine": "none"}, repeats=3, load_s=0.0, machine={}, versions={}, points=points)


def test_a_profile_is_read_from_its_file_once_and_then_part_of_the_value(tmp_path):
    path = tmp_path / "profile.json"
    _profile(ProfilePoint(1, 0, 1.0, 2.0, 3.0), ProfilePoint(2, 0, 4.0, 5.0, 6.0)).save(path)

    median, p90 = (ProfiledLatency(profile=str(path), statistic=name) for name in ("median", "p90"))
    path.unlink()

    assert [median.fresh().at(n, 0) for n in (1, 2)] == [2.0, 5.0]
    assert [p90.fresh().at(n, 0) for n in (1, 2)] == [3.0, 6.0]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({}, r"^\$: ProfiledLatency needs a `profile` or `points`$"),
        ({"profile": "absent.json"}, r"cannot read the profile absent.json: No such file"),
        (
            {"points": [[1, 0, 1.0], [2, 8, 1.0]]},
            r"not a full grid: 2 missing, such as batch size 1, tokens 8",
        ),
        ({"points": [[0, 0, 1.0]]}, r"^\$.points\[0\]\[0\]: Expected `int` >= 1"),
        ({"points": [[1, 0, -1.0]]}, r"^\$.points\[0\]\[2\]: Expected `float` >= 0"),
        ({"points": [[1, 0, 1.0]], "statistic": "mean"}, r"^\$.statistic: Invalid enum value 'mean'"),
    ],
)
def test_a_mistake_in_a_table_is_named(parameters, complaint):
    with pytest.raises(PolicyError, match=complaint):
        build(LatencyModel, {"latency": "profiled", **parameters})


@pytest.mark.parametrize(
    "content", ["", "{}", '{"format": "another/1"}', "\x00", '{"format": "fleetlab-profile/1", "points": []}']
)
def test_a_file_that_is_no_profile_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"other.json is not a profile as `fleet profile` writes it"):
        ProfiledLatency(profile=str(path))


# --- roofline ----------------------------------------------------------------------------------------------

SLOW = DeviceSpec(flops_per_s=1e12, bytes_per_s=1e10)


def test_a_small_batch_is_bound_by_reading_the_weights():
    model = RooflineLatency(device=SLOW, parameters_count=1e9)

    assert model.seconds(make_work(1, prompt_tokens=1)) == 2e9 / 1e10
    assert model.seconds(make_work(1, prompt_tokens=100)) == 2e9 / 1e10


def test_a_large_batch_is_bound_by_arithmetic():
    model = RooflineLatency(device=SLOW, parameters_count=1e9, overhead_s=0.5)

    assert model.seconds(make_work(10, prompt_tokens=1000)) == pytest.approx(0.5 + 2e9 * 10_000 / 1e12)


def test_efficiencies_and_flops_of_ones_own_scale_the_roof():
    model = RooflineLatency(
        device=SLOW, parameters_count=1e9, flops_per_token=5e9, flops_efficiency=0.5, bytes_efficiency=0.25
    )

    assert model.seconds(make_work(1, prompt_tokens=1000)) == pytest.approx(5e9 * 1000 / 0.5e12)
    assert model.seconds(make_work(1, prompt_tokens=1)) == pytest.approx(2e9 / 0.25e10)


def test_traffic_of_tokens_adds_to_the_weights():
    model = RooflineLatency(device=SLOW, parameters_count=1e6, bytes_per_token=1e7)

    assert model.seconds(make_work(2, prompt_tokens=10)) == pytest.approx((2e6 + 20 * 1e7) / 1e10)


def test_decoding_takes_a_pass_for_each_token_of_the_longest_output():
    model = RooflineLatency(device=SLOW, parameters_count=1e9, decode=True)
    work = [Work(Request(str(n), 0.0, prompt_tokens=10), 1, output_tokens=n) for n in (None, 3, 7)]

    assert model.seconds(work) == pytest.approx((1 + 7) * 2e9 / 1e10)


def test_without_tokens_an_item_counts_as_its_work():
    model = RooflineLatency(device=SLOW, parameters_count=1e9)

    assert model.seconds(make_work(1, work=500.0)) == model.seconds(make_work(500))


@given(st.sampled_from(sorted(DEVICES)), st.integers(1, 64), st.integers(1, 64))
def test_more_items_never_take_less_time_on_any_device(device, size, more):
    model = RooflineLatency(device=device, parameters_count=7e9)

    assert model.seconds(make_work(size)) <= model.seconds(make_work(size + more))


def test_devices_have_their_published_ridge_points():
    ridge = {name: spec.flops_per_s / spec.bytes_per_s for name, spec in DEVICES.items()}

    assert ridge == pytest.approx(
        {"a100": 153, "h100": 295, "h200": 206, "l4": 403, "rtx-4090": 164, "rtx-pro-6000": 315},
        rel=0.01,
    )


def test_an_unknown_device_is_named_with_those_there_are():
    with pytest.raises(PolicyError, match=r"no device 'h300'; known: a100, h100, h200, l4, rtx-4090"):
        build(LatencyModel, {"latency": "roofline", "device": "h300", "parameters_count": 1e9})


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        {"latency": "affine", "base_s": 0.01, "per_item_s": 0.001, "jitter_cv": 0.2},
        {"latency": "profiled", "points": [[1, 0, 0.01], [8, 0, 0.02]], "jitter_cv": 0.2},
        {
            "latency": "roofline",
            "device": {"flops_per_s": 1e12, "bytes_per_s": 1e11},
            "parameters_count": 1e8,
        },
    ],
    ids=lambda table: table["latency"],
)
def test_a_model_is_built_from_a_table_and_copied_without_state(table):
    model = build(LatencyModel, table)
    work = make_work(random.Random(0).randint(1, 8))
    unseeded = model.seconds(work)
    model.reset(5)

    assert model.fresh().seconds(work) == unseeded
    assert model.fresh() == model
