"""Every number of a fleet is checked when it is built, in whatever struct it is and whatever way it came."""

import math
import tomllib
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Struct

from fleet import (
    AffineLatency,
    AffineSteps,
    EmulatedEngine,
    EmulatedLlmEngine,
    FleetError,
    FleetSpec,
    KvSpec,
    NetworkModel,
    ProfiledLatency,
    RooflineLatency,
    RooflineSteps,
    simulate,
)
from fleet.cli import main
from fleet.cli.inputs import changed
from fleet.engines import (
    DEVICES,
    MODELS,
    DeviceSpec,
    LatencyModel,
    ModelSpec,
    StepLatency,
    TorchEngine,
    TransformersEngine,
)
from fleet.spec import from_mapping
from policies import Composed, InFlightScorer, LeastOutstanding, PolicyError, SessionAffinity
from policies.base import SLOTS, Component
from policies.building import build
from policies.registry import classes
from traces import Slo, poisson
from traces.values import check_fields

BATCH = EmulatedEngine(latency=AffineLatency(base_s=0.1, per_item_s=0.0))
ROOFLINE: dict[str, Any] = {"device": "h100", "model": "llama-3.1-8b"}
NO_MEMORY = DeviceSpec(1e12, 1e12)
WEIGHTLESS = msgspec.structs.replace(MODELS["qwen3-8b"], bytes_per_parameter=0)


def llm(**changes: Any) -> EmulatedLlmEngine:
    return EmulatedLlmEngine(**{"latency": AffineSteps(base_s=0.1), "kv": KvSpec(blocks=10), **changes})


def of_device(device: Any, **figures: Any) -> EmulatedEngine:
    return EmulatedEngine(latency=RooflineLatency(device=device, parameters_count=1e9, **figures))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"network": NetworkModel(loss=2.0)}, "$.network.loss"),
        ({"network": NetworkModel(delay_s=math.nan)}, "$.network.delay_s"),
        ({"network": NetworkModel(jitter_s=math.inf)}, "$.network.jitter_s"),
        ({"network": NetworkModel(retransmit_s=0.0)}, "$.network.retransmit_s"),
        ({"slo": Slo(e2e_s=math.nan)}, "$.slo.e2e_s"),
        ({"slo": Slo(ttft_s=-1.0)}, "$.slo.ttft_s"),
        ({"slo": Slo(tpot_s=math.inf)}, "$.slo.tpot_s"),
        ({"deadline_s": math.inf}, "$.deadline_s"),
        ({"provision_s": math.inf}, "$.provision_s"),
        ({"failed_grace_s": math.nan}, "$.failed_grace_s"),
        ({"weights": (1.0, math.nan)}, "$.weights[1]"),
        ({"engine": of_device(DeviceSpec(math.nan, 1e12))}, "$.engine.latency.device.flops_per_s"),
        ({"engine": of_device(DeviceSpec(1e12, 0.0))}, "$.engine.latency.device.bytes_per_s"),
        ({"engine": of_device(DeviceSpec(1e12, math.inf))}, "$.engine.latency.device.bytes_per_s"),
        ({"engine": of_device("h100", overhead_s=math.nan)}, "$.engine.latency.overhead_s"),
        ({"engine": llm(kv=KvSpec(blocks=10, watermark=5.0))}, "$.engine.kv.watermark"),
        ({"engine": llm(kv=KvSpec(blocks=0))}, "$.engine.kv.blocks"),
        ({"engine": llm(kv=KvSpec(reserve_bytes=math.inf, **ROOFLINE))}, "$.engine.kv.reserve_bytes"),
        ({"engine": llm(kv=KvSpec(model="llama-3.1-8b", device="h1000"))}, "$.engine.kv.device"),
        ({"engine": llm(kv=KvSpec(blocks=10, device="h1000"))}, "$.engine.kv.device"),
        ({"engine": llm(kv=KvSpec(model="gpt-9", device="h100"))}, "$.engine.kv.model"),
        ({"engine": llm(kv=KvSpec())}, "$.engine.kv"),
        ({"engine": llm(kv=KvSpec(device="l4", model="llama-3.1-70b"))}, "$.engine.kv"),
        ({"engine": llm(kv=KvSpec(model="qwen3-8b", device=NO_MEMORY))}, "$.engine.kv.device.memory_bytes"),
        ({"engine": llm(kv=KvSpec(device="l4", model=WEIGHTLESS))}, "$.engine.kv.model.bytes_per_parameter"),
        ({"engine": llm(latency=RooflineSteps(tensor_parallel=0, **ROOFLINE))}, "$.engine.latency.tensor_parallel"),
        ({"engine": llm(cold_start_s=math.inf)}, "$.engine.cold_start_s"),
        ({"engine": TorchEngine(module="a:B", kwargs={"clip": math.inf})}, "$.engine.kwargs.clip"),
        ({"routing": Composed(scorers=[(math.nan, InFlightScorer())])}, "$.routing.scorers[0][0]"),
        ({"routing": Composed(hold_s=math.inf)}, "$.routing.hold_s"),
        ({"routing": SessionAffinity(fallback=LeastOutstanding(), max_imbalance=math.nan)}, "$.routing.max_imbalance"),
    ],
)  # fmt: skip
def test_what_is_wrong_within_python_objects_is_refused_with_its_path(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        FleetSpec(**{"engine": BATCH, **fields})
    assert str(caught.value).startswith(f"{path}: ")


def test_a_component_within_a_component_is_checked_too() -> None:
    inner = Composed(scorers=[(1.0, InFlightScorer()), (-1.0, InFlightScorer())])
    with pytest.raises(PolicyError, match=r"^\$\.routing\.fallback\.scorers\[1\]\[0\]: "):
        FleetSpec(engine=BATCH, routing=SessionAffinity(fallback=inner))


# --- every float there is ------------------------------------------------------------------------------------


def floats_of(annotation: Any) -> bool:
    """Whether a field of this type may hold a float by itself."""
    if annotation is float:
        return True
    if typing.get_origin(annotation) in {Annotated, typing.Union, types.UnionType}:
        return any(floats_of(part) for part in typing.get_args(annotation))
    return False


OURS = ("fleet.", "policies.")
COMPONENTS = [
    cls
    for base in (*SLOTS.values(), LatencyModel, StepLatency)
    for cls in classes(base)
    if cls.__module__.startswith(OURS)
]
PARTS: list[tuple[type[Struct], dict[str, Any]]] = [
    (NetworkModel, {}), (Slo, {}), (DeviceSpec, {"flops_per_s": 1e12, "bytes_per_s": 1e12}), (KvSpec, {"blocks": 8}),
    (ModelSpec, msgspec.structs.asdict(MODELS["qwen3-8b"])), (EmulatedEngine, {"latency": BATCH.latency}),
    (EmulatedLlmEngine, {"latency": AffineSteps(base_s=0.1), "kv": KvSpec(blocks=8)}), (TransformersEngine, {}),
]  # fmt: skip
NEEDED: dict[type[Struct], dict[str, Any]] = {
    AffineLatency: {"base_s": 0.1, "per_item_s": 0.0}, AffineSteps: {"base_s": 0.1},
    RooflineLatency: {"device": "h100", "parameters_count": 1e9}, RooflineSteps: ROOFLINE,
    ProfiledLatency: {"points": ((1, 0, 0.1),)},
}  # fmt: skip


def numbers() -> Iterator[Any]:
    for cls, given in [*PARTS, *((cls, NEEDED.get(cls, {})) for cls in COMPONENTS)]:
        fields = msgspec.structs.fields(cls)
        if any(field.required and field.name not in given for field in fields):
            continue  # read from a file, or of a test's own
        for field in fields:
            if floats_of(field.type):
                yield pytest.param(cls, given, field.name, id=f"{cls.__name__}.{field.name}")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cls", "given", "name"), list(numbers()))
def test_no_float_of_a_fleet_may_be_anything_but_finite(
    cls: type[Struct], given: dict[str, Any], name: str, wrong: float
) -> None:
    try:
        value = cls(**{**given, name: wrong})
    except ValueError:
        return  # it refuses by itself, as it is made
    with pytest.raises((PolicyError, ValueError), match=rf"^\$\.{name}: "):
        build(cls, value) if isinstance(value, Component) else check_fields(value)


def test_enough_floats_were_found_to_mean_something() -> None:
    assert len(list(numbers())) > 60


# --- other ways in ---------------------------------------------------------------------------------------------

TOML = """
engine = { engine = "emulated-llm", latency = { latency = "affine-steps", base_s = 0.1 }, kv = { blocks = 10 } }
"""


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("network.loss=2.0", "$.network.loss"), ("network.delay_s=nan", "$.network.delay_s"),
        ("slo.e2e_s=inf", "$.slo.e2e_s"), ("engine.kv.device=h1000", "$.engine.kv.device"),
        ("engine.kv.watermark=5.0", "$.engine.kv.watermark"), ("engine.kv.model=gpt-9", "$.engine.kv.model"),
        ("engine.latency.base_s=nan", "$.engine.latency.base_s"), ("provision_s=inf", "$.provision_s"),
    ],
)  # fmt: skip
def test_tables_and_the_command_line_are_held_to_the_same(
    change: str, path: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tomllib.loads(TOML.replace("affine-steps", "affine"))
    with pytest.raises(PolicyError) as caught:
        from_mapping(changed(table, [change]))
    assert str(caught.value).startswith(f"{path}: ")
    file = tmp_path / "fleet.toml"
    file.write_text(TOML.replace("affine-steps", "affine"))
    assert main(["simulate", "chat-small", str(file), "--first", "3", "--set", change]) == 2
    assert path in capsys.readouterr().err


def test_a_name_of_a_device_that_is_not_known_lists_those_that_are() -> None:
    with pytest.raises(PolicyError, match=", ".join(DEVICES)):
        FleetSpec(engine=llm(kv=KvSpec(model="qwen3-8b", device="h1000")))


# --- what a run is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, "soon"])
def test_a_horizon_is_a_finite_time(wrong: Any) -> None:
    with pytest.raises(FleetError, match="until_s: "):
        simulate(poisson(10.0, 1.0), FleetSpec(engine=BATCH), until_s=wrong)


@pytest.mark.parametrize("wrong", [math.nan, 1.5, "one", None])
def test_a_seed_is_a_whole_number(wrong: Any) -> None:
    with pytest.raises(FleetError, match="seed: "):
        simulate(poisson(10.0, 1.0), FleetSpec(engine=BATCH), seed=wrong)
