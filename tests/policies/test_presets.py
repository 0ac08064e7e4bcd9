"""Presets: each builds, has what its documentation says where it says so, and serves."""

import pytest

from fleet import FleetSpec, simulate
from fleet.engines import EmulatedLlmEngine, KvSpec, RooflineSteps
from fleet.spec import COMPONENTS
from policies import NoBatching, PolicyError
from policies.base import Component
from policies.presets import PRESETS, Preset, kserve, triton
from tests.simulation.building import arrivals as requests_at
from tests.simulation.building import engine as emulated
from traces import poisson

NAMES = sorted(PRESETS)


def fleet_of(preset: Preset, **changes) -> FleetSpec:
    engine = emulated(0.003, 0.012)
    if preset.serves == "tokens":
        steps = RooflineSteps(model="llama-3.1-8b", device="a100")
        engine = EmulatedLlmEngine(latency=steps, kv=KvSpec(blocks=20_000, block_tokens=16))
    base = FleetSpec(engine=engine, replicas=2, max_replicas=4, batching=NoBatching())
    return base.replace(**preset.fields).replace(**changes)


def at(values: object, path: str) -> object:
    """What a spec's plain values have under a path such as ``routing.scorers.0.0``."""
    for part in path.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_called_as_its_function_and_says_where_it_is_from(name):
    preset = PRESETS[name]()
    assert preset.name == name == PRESETS[name].__name__
    assert len(preset.source) > 20
    assert preset.left_out
    assert all(knob.key.strip() and knob.path.strip() for knob in preset.knobs)
    assert len({knob.path for knob in preset.knobs}) == len(preset.knobs)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_is_in_the_fleet_and_has_exactly_its_value(name):
    preset = PRESETS[name]()
    values = fleet_of(preset).to_dict()
    for knob in preset.knobs:
        found = at(values, knob.path)
        assert (found, type(found)) == (knob.value, type(knob.value)), knob.path


@pytest.mark.parametrize("name", NAMES)
def test_each_number_that_a_preset_sets_has_a_setting_that_says_what_it_is(name):
    """Of its plain fields; the parameters of a policy that are not named have the policy's own defaults."""
    preset = PRESETS[name]()
    told = {knob.path.split(".")[0] for knob in preset.knobs}
    plain = {field for field, value in preset.fields.items() if not isinstance(value, Component)}
    assert plain - {"binding"} <= told


@pytest.mark.parametrize("name", NAMES)
def test_engine_replicas_and_objectives_are_the_fleets_own(name):
    fields = PRESETS[name]().fields
    assert not {"engine", "replicas", "max_replicas", "slo", "deadline_s", "pools", "weights"} & set(fields)
    assert set(fields) <= {*FleetSpec.__struct_fields__}
    assert all(slot in COMPONENTS for slot, value in fields.items() if isinstance(value, Component))


@pytest.mark.parametrize("name", NAMES)
def test_under_a_light_load_all_requests_complete(name):
    preset = PRESETS[name]()
    tokens = {"prompt_tokens": 200, "output_tokens": 20} if preset.serves == "tokens" else {}
    run = simulate(poisson(8.0, 10.0, 1, **tokens), fleet_of(preset), seed=1)
    assert run.summary.completed == run.summary.submitted > 50


@pytest.mark.parametrize("name", NAMES)
def test_two_of_one_preset_share_no_policy(name):
    one, other = PRESETS[name](), PRESETS[name]()
    for slot, value in one.fields.items():
        if isinstance(value, Component):
            assert value is not other.fields[slot]


def test_a_control_plane_goes_over_a_server_and_keeps_its_batches():
    over = fleet_of(triton(), **kserve().fields)
    assert over.batching.name() == "triton-dynamic"
    assert over.scaling.name() == "knative-concurrency"
    assert over.binding == "early"


def test_a_fleet_that_serves_no_model_of_that_name_is_told():
    fleet = FleetSpec(pools={"a": {"model": "ranker", "engine": emulated()}})
    with pytest.raises(PolicyError, match=r"\$\.models\.default: no pool serves it"):
        fleet.replace(**PRESETS["infaas"]().fields)


def test_knative_goes_to_none_between_requests_and_kserve_keeps_one():
    trace = requests_at(0.5, 200.0)
    least = {}
    for name in ("knative", "kserve"):
        run = simulate(trace, fleet_of(PRESETS[name](), replicas=1), seed=1)
        assert run.summary.completed == 2
        least[name] = run.summary.replicas.min
    assert least == {"knative": 0, "kserve": 1}


def test_batches_are_as_large_as_each_server_lets_them_be():
    trace = poisson(600.0, 2.0, 1)
    largest = {}
    for name in ("ray_serve", "triton", "torchserve", "tensorflow_serving"):
        run = simulate(trace, fleet_of(PRESETS[name](), max_replicas=2, queue_capacity=100_000), seed=1)
        assert run.summary.completed == len(trace)
        largest[name] = max(run.records["batch_size"].to_pylist())
    assert largest.pop("tensorflow_serving") > 10
    assert largest == {"ray_serve": 5, "triton": 4, "torchserve": 1}
