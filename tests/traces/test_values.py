"""One rule for every value: however it came, it is checked, and its path is named."""

import math
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest
from msgspec import Meta, Struct

from traces import Fault, FaultTrace, Slo, TraceError, load_trace
from traces.synthesis import Lengths, bernoulli_surge, diurnal, gamma, mmpp, poisson, sessions, surge
from traces.values import BadValue, check_fields, checked

Share = Annotated[float, Meta(ge=0, le=1)]


class Inner(Struct, frozen=True):
    share: Share = 0.5
    name: str = "a"

    def check_values(self) -> None:
        if self.name == "unknown":
            raise BadValue("name", "no such name; known: a, b")


class Outer(Struct, frozen=True):
    inner: Inner | str = Inner()
    several: tuple[Inner, ...] = ()
    table: dict[str, Inner] = {}
    plain: float = 0.0
    anything: Any = None


class OfMyOwn(Inner, frozen=True):
    extra: int = 0


class Pair(NamedTuple):
    first: float
    second: float


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Outer(inner=Inner(2.0)), "$.inner.share: Expected `float` <= 1.0"),
        (Outer(inner=Inner(math.nan)), "$.inner.share: Expected `float` >= 0.0"),
        (Outer(several=(Inner(), Inner(-1.0))), "$.several[1].share: Expected `float` >= 0.0"),
        (Outer(table={"x": Inner(2.0)}), "$.table.x.share: Expected `float` <= 1.0"),
        (Outer(plain=math.nan), "$.plain: expected a finite number, got nan"),
        (Outer(plain=math.inf), "$.plain: expected a finite number, got inf"),
        (Outer(plain="1"), "$.plain: Expected `float`, got `str`"),
        (Outer(anything=[{"deep": -math.inf}]), "$.anything[0].deep: expected a finite number, got -inf"),
        (Outer(anything=Inner(2.0)), "$.anything.share: Expected `float` <= 1.0"),
        (Outer(inner=Inner(name="unknown")), "$.inner.name: no such name; known: a, b"),
        (
            Outer(inner=OfMyOwn()),
            "$.inner: Expected `str | object`, got `OfMyOwn`",
        ),  # a file could not hold it
    ],
)
def test_a_value_within_a_struct_is_checked_and_its_path_named(value: Outer, says: str) -> None:
    with pytest.raises(BadValue) as caught:
        checked(Outer, value)
    assert str(caught.value) == says


def as_inner(value: Any) -> Any:
    if isinstance(value, list):
        return [as_inner(item) for item in value]
    return Inner(**value) if isinstance(value, dict) else value


@pytest.mark.parametrize(
    "plain",
    [
        {"inner": {"share": 2.0}},
        {"inner": {"name": "unknown"}},
        {"several": [{"share": 2.0}]},
        {"plain": math.inf},
    ],
)
def test_plain_values_and_structs_of_the_same_values_have_the_same_error(plain: dict[str, Any]) -> None:
    as_structs = {key: as_inner(item) for key, item in plain.items()}
    errors = set()
    for values in (plain, as_structs):
        with pytest.raises(BadValue) as caught:
            checked(Outer, Outer(**values) if values is as_structs else values)
        errors.add(str(caught.value))
    assert len(errors) == 1


def test_what_is_right_comes_back_equal_and_fresh() -> None:
    given = Outer(several=(Inner(),), table={"x": Inner()}, anything=Pair(1.0, 2.0))
    back = checked(Outer, given)
    assert back == given
    assert back.table is not given.table
    assert type(back.anything) is Pair


def test_whole_numbers_in_the_place_of_floats_become_floats() -> None:
    assert isinstance(check_fields(Outer(plain=3)).plain, float)


def test_a_struct_that_refuses_itself_names_the_field() -> None:
    class Refusing(Struct):
        kind: str = "a"

        def __post_init__(self) -> None:
            if self.kind == "b":
                raise BadValue("kind", "not b")

    with pytest.raises(BadValue, match=r"^\$\.x\[0\]\.kind: not b$"):
        checked(list[Refusing], [{"kind": "b"}], "$.x")


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at_s", math.nan), ("at_s", math.inf), ("at_s", -1.0), ("for_s", math.nan), ("for_s", -1.0),
        ("for_s", math.inf),
        ("factor", math.nan), ("factor", 0.5), ("probability", 1.5), ("probability", math.nan), ("notice_s", -1.0),
        ("notice_s", math.inf), ("kind", "explode"), ("replica", 0),
    ],
)  # fmt: skip
def test_a_fault_is_checked_as_it_is_made(field: str, value: object) -> None:
    given = {"at_s": 1.0, "kind": "crash", field: value}
    with pytest.raises(ValueError, match=rf"^{field}: "):
        Fault(**given)
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(given, Fault)


def test_the_objectives_of_a_request_have_bounds() -> None:
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(BadValue, match=r"^\$\.ttft_s: "):
            check_fields(Slo(ttft_s=wrong))
    assert check_fields(Slo(e2e_s=0.0)) == Slo(e2e_s=0.0)


# --- transforms and laws -----------------------------------------------------------------------------------

NUMBERS = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("wrong", [*NUMBERS, 0.0, -1.0])
@pytest.mark.parametrize("name", ["scale_rate", "scale_time", "scale_lengths"])
def test_a_transform_wants_a_finite_factor_above_0(name: str, wrong: float) -> None:
    with pytest.raises(TraceError, match=name):
        getattr(load_trace("chat-small"), name)(wrong)


@pytest.mark.parametrize("wrong", NUMBERS)
def test_other_transforms_want_finite_numbers(wrong: float) -> None:
    trace = poisson(10.0, 5.0)
    for act in (
        lambda: trace.first(seconds=wrong),
        lambda: trace.slice(wrong, 3.0),
        lambda: trace.upsample(wrong, seed=0),
        lambda: trace.dequantise(tick_s=wrong, seed=0),
        lambda: trace.with_deadline(wrong),
        lambda: trace.with_slo(tpot_s=wrong),
    ):
        with pytest.raises(TraceError):
            act()


def test_a_slice_may_have_no_end_and_records_none() -> None:
    trace = poisson(10.0, 5.0)
    rest = trace.slice(2.0, math.inf)
    assert len(rest) + len(trace.slice(0.0, 2.0)) == len(trace)
    assert "end_s" not in rest.header.transforms[-1].parameters
    for wrong in (math.nan, -math.inf):
        with pytest.raises(TraceError):
            trace.slice(0.0, wrong)


@pytest.mark.parametrize("wrong", NUMBERS)
def test_every_law_of_arrivals_wants_finite_numbers(wrong: float) -> None:
    laws = {
        poisson: {"rate_per_s": 1.0, "duration_s": 2.0},
        gamma: {"rate_per_s": 1.0, "cv": 1.0, "duration_s": 2.0},
        diurnal: {"mean_per_s": 1.0, "amplitude": 0.5, "period_s": 2.0, "duration_s": 2.0, "peak_at_s": 1.0},
        surge: {"base_per_s": 1.0, "peak_per_s": 2.0, "at_s": 1.0, "half_width_s": 1.0, "duration_s": 2.0},
        bernoulli_surge: {"base_per_s": 1.0, "peak_per_s": 2.0, "at_s": 1.0, "half_width_s": 1.0, "duration_s": 2.0},
        sessions: {"sessions_per_s": 1.0, "duration_s": 2.0, "turns": 2.0, "think_s": 1.0},
    }  # fmt: skip
    for law, right in laws.items():
        law(**right)
        for name in right:
            with pytest.raises(TraceError, match=r"\S"):
                law(**{**right, name: wrong})
    for rates, sojourns in (([1.0, wrong], 1.0), ([1.0, 2.0], [1.0, wrong]), ([1.0, 2.0], wrong)):
        with pytest.raises(TraceError):
            mmpp(rates, sojourns, 2.0)
    with pytest.raises(TraceError):
        Lengths.lognormal(wrong, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"system_tokens": -1}, {"block_tokens": 0, "prompt_tokens": 8}, {"prompt_tokens": 1.5}]
)
def test_token_counts_of_a_law_are_whole_and_not_below_0(wrong: dict[str, Any]) -> None:
    with pytest.raises(TraceError):
        sessions(1.0, 5.0, **wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lengths.constant(2.5),
        lambda: Lengths.uniform(1.5, 3),
        lambda: Lengths.uniform(3, 2),
        lambda: poisson(1.0, 2.0, seed=-1),
        lambda: poisson(1.0, 2.0, seed=1.5),
    ],
)
def test_what_must_be_whole_is(make: Any) -> None:
    with pytest.raises(TraceError):
        make()


def test_a_fault_trace_holds_faults() -> None:
    with pytest.raises(BadValue, match=r"^faults\[0\]: Expected `object`, got `str`"):
        FaultTrace(faults=("crash",))
