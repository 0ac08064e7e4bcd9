"""By name, from tables, and every message a user may meet on the way."""

import subprocess
import sys
from abc import abstractmethod
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from policies import (
    Composed,
    FreshFilter,
    InFlightScorer,
    LeastOutstanding,
    Policy,
    PolicyError,
    PowerOfTwoChoices,
    Random,
    RoutingPolicy,
    build,
    describe,
)
from policies.base import Component
from policies.registry import ParameterInfo, resolve
from tests.conftest import ROOT


class PaintModel(Component, tag_field="paint"):
    """A family of components that has nothing to do with policies, as engines have not."""

    slot = "paint"

    @abstractmethod
    def colour(self) -> str: ...


class Plain(PaintModel):
    """One colour.

    Source: a tube.
    """

    shade: Annotated[int, Meta(ge=0, le=9)]
    finish: Literal["matt", "gloss"] = "matt"

    def colour(self) -> str:
        return "plain"


class Mixed(PaintModel):
    """Several."""

    base: PaintModel
    others: list[PaintModel] = []
    shares: tuple[tuple[float, PaintModel], ...] = ()
    named: dict[str, PaintModel] = {}
    spare: PaintModel | None = None
    strength: float | PaintModel = 1.0
    pair: tuple[PaintModel, PaintModel] | None = None

    def colour(self) -> str:
        return "mixed"


def error(base: type[Component], value: Any, path: str = "$.paint") -> str:
    with pytest.raises(PolicyError) as raised:
        build(base, value, path)
    return str(raised.value)


# --- what works --------------------------------------------------------------------------------------------


def test_a_table_becomes_a_component() -> None:
    assert build(RoutingPolicy, {"policy": "power-of-two-choices", "choices": 3}) == PowerOfTwoChoices(
        choices=3
    )
    assert build(PaintModel, {"paint": "plain", "shade": 3, "finish": "gloss"}) == Plain(3, "gloss")


def test_a_component_becomes_a_fresh_one() -> None:
    policy = Random()
    policy.state = "left over"
    again = build(RoutingPolicy, policy)
    assert again == policy
    assert again is not policy
    assert not vars(again)


def test_components_nest_in_every_kind_of_field() -> None:
    one = {"paint": "plain", "shade": 1}
    table = {
        "paint": "mixed",
        "base": one,
        "others": [one, one],
        "shares": [[0.5, one]],
        "named": {"wall": one},
        "spare": one,
        "strength": one,
        "pair": [one, one],
    }
    plain = Plain(1)
    mixed = Mixed(plain, [plain, plain], ((0.5, plain),), {"wall": plain}, plain, plain, (plain, plain))
    assert build(PaintModel, table) == mixed
    assert build(PaintModel, mixed) == mixed
    assert build(PaintModel, {"paint": "mixed", "base": one, "spare": None, "strength": 2}).strength == 2.0  # type: ignore[attr-defined]


def test_a_concrete_base_needs_no_name() -> None:
    assert build(Plain, {"shade": 2}) == Plain(2)


def test_a_module_and_class_are_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_policies.py").write_text(
        "from policies import Route, RoutingPolicy\n"
        "class Last(RoutingPolicy):\n"
        "    offset: int = 1\n"
        "    def route(self, request, replicas, now_s):\n"
        "        return Route(replicas[-self.offset].id)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    policy = build(RoutingPolicy, {"policy": "their_policies:Last", "offset": 2})
    assert (type(policy).__module__, policy.parameters()) == ("their_policies", {"offset": 2})
    assert resolve(RoutingPolicy, "last") is type(policy)  # known by name from now on
    assert "no `Lost`; did you mean `Last`?" in error(RoutingPolicy, {"policy": "their_policies:Lost"})


def entry_points(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    points = [
        EntryPoint(name.replace("_", "-"), value, "fleetlab.policies") for name, value in entries.items()
    ]
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [p for p in points if p.group == group]
    )


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, nearest="policies.routing.least_outstanding:LeastOutstanding")
    assert build(RoutingPolicy, {"policy": "nearest"}) == LeastOutstanding()


def test_an_entry_point_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, nearest="no_such_module:Thing")
    says = error(RoutingPolicy, {"policy": "nearest"}, "$.routing")
    assert says.startswith(
        "$.routing.policy: entry point `nearest = no_such_module:Thing` cannot be loaded: ModuleNotFoundError"
    )


def test_of_a_class_that_was_defined_again_the_latest_counts() -> None:
    def define(shade: int) -> type[PaintModel]:
        class Redefined(PaintModel):
            tone: int = shade

            def colour(self) -> str:
                return "again"

        return Redefined

    first, second = define(1), define(2)
    assert resolve(PaintModel, "redefined") is second
    assert first is not second


# --- what does not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"paint": "plain", "shde": 1}, "$.paint.shde: plain has no parameter `shde`; did you mean `shade`?"),
        ({"paint": "plain", "x": 1}, "$.paint.x: plain has no parameter `x`; it has shade, finish"),
        ({"paint": "plain"}, "$.paint.shade: plain needs `shade` (int >= 0, <= 9)"),
        ({"paint": "plain", "shade": 12}, "$.paint.shade: Expected `int` <= 9"),
        ({"paint": "plain", "shade": "dark"}, "$.paint.shade: Expected `int`, got `str`"),
        ({"paint": "plain", "shade": 1, "finish": "satin"}, "$.paint.finish: Invalid enum value 'satin'"),
        ({"paint": "mixed", "base": 7}, '$.paint.base: expected a table such as {paint = "..."}, got 7'),
        (
            {
                "paint": "mixed",
                "base": {"paint": "plain", "shade": 1},
                "others": [{"paint": "plain", "shade": -1}],
            },
            "$.paint.others[0].shade: Expected `int` >= 0",
        ),
        (
            {"paint": "mixed", "base": {"paint": "plain", "shade": 1}, "shares": [[1.0]]},
            "$.paint.shares[0]: expected an array of 2, got 1",
        ),
        (
            {"paint": "mixed", "base": {"paint": "plain", "shade": 1}, "named": {"wall": {"paint": "plain"}}},
            "$.paint.named.wall.shade: plain needs `shade` (int >= 0, <= 9)",
        ),
        (
            {"paint": "mixed", "base": {"paint": "plain", "shade": 1}, "others": {}},
            "$.paint.others: expected an array, got {}",
        ),
        ("plain", "$.paint: expected a table such as {paint = \"...\"}, got 'plain'"),
        (Random(), "$.paint: expected a paint model, got Random"),
        (
            {"paint": "no_such:Thing"},
            f"$.paint.paint: there is no module `no_such` on the import path or in {Path.cwd()}",
        ),
        (
            {"paint": "policies:Random"},
            "$.paint.paint: `policies:Random` is not of kind paint model (a subclass of PaintModel)",
        ),
        (
            {"paint": f"{__name__}:PaintModel"},
            f"$.paint.paint: `{__name__}:PaintModel` cannot be used: it does not define colour",
        ),
    ],
)
def test_a_mistake_is_told_by_path_and_remedy(table: Any, says: str) -> None:
    assert error(PaintModel, table) == says


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            {"policy": "randon"},
            "$.routing.policy: there is no routing policy `randon`; did you mean `random`? Known: ",
        ),
        (
            {"policy": "window"},
            "$.routing.policy: there is no routing policy `window` (it is a policy of another slot: batching). Known: ",
        ),
        ({"policy": 5}, "$.routing: `policy` must be a name, got 5. Known: "),
        ({"choices": 5}, "$.routing: `policy` is missing. Known: "),
    ],
)
def test_an_unknown_name_is_told_with_all_that_are_known(table: Any, says: str) -> None:
    told = error(RoutingPolicy, table, "$.routing")
    assert told.startswith(says)
    known = told.partition("Known: ")[2].partition(";")[0].split(", ")
    # Other tests of this process may have defined policies of their own.
    assert {"least-outstanding", "power-of-two-choices", "random", "round-robin"} <= set(known)
    assert known == sorted(known)
    assert told.endswith("; one of your own is written `module:Class`")


def test_an_error_inside_a_part_names_the_whole_path() -> None:
    table = {"policy": "composed", "scorers": [[1.0, {"policy": "busy-scorer", "unknwn": 0.1}]]}
    assert error(RoutingPolicy, table, "$.routing") == (
        "$.routing.scorers[0][1].unknwn: busy-scorer has no parameter `unknwn`; did you mean `unknown`?"
    )
    assert error(RoutingPolicy, Composed(picker=FreshFilter()), "$.routing") == (  # type: ignore[arg-type]
        "$.routing.picker: expected a picker, got FreshFilter"
    )
    negative = Composed(scorers=[(-1.0, InFlightScorer())])
    assert error(RoutingPolicy, negative, "$.routing") == "$.routing.scorers[0][0]: Expected `float` >= 0.0"


def test_two_classes_of_one_name_are_told_apart_by_module() -> None:
    class Twin(PaintModel):
        def colour(self) -> str:
            return "one"

    other = type("Twin", (PaintModel,), {"colour": lambda self: "two", "__module__": "elsewhere"})
    assert error(PaintModel, {"paint": "twin"}) == (
        f"$.paint.paint: 2 classes go by `twin`: elsewhere:Twin and {__name__}:{Twin.__qualname__}; "
        "write `elsewhere:Twin` to say which"
    )
    assert other is not Twin


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policies.py").write_text("import not_a_module_at_all\n")
    (tmp_path / "raising_policies.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert error(RoutingPolicy, {"policy": "broken_policies:Mine"}, "$.routing") == (
        "$.routing.policy: module `broken_policies` cannot be imported: No module named 'not_a_module_at_all'"
    )
    assert error(RoutingPolicy, {"policy": "raising_policies:Mine"}, "$.routing") == (
        "$.routing.policy: module `raising_policies` cannot be imported: ZeroDivisionError: division by zero"
    )


# --- the list ----------------------------------------------------------------------------------------------


def test_describe_lists_parameters_with_types_bounds_and_defaults() -> None:
    info = {info.name: info for info in describe(PaintModel)}
    assert info["plain"].summary == "One colour."
    assert info["plain"].source == "a tube."
    assert info["plain"].location == f"{__name__}:Plain"
    assert info["plain"].parameters == (
        ParameterInfo("shade", "int >= 0, <= 9", None),
        ParameterInfo("finish", "'matt' | 'gloss'", "'matt'"),
    )
    assert [parameter.type for parameter in info["mixed"].parameters] == [
        "PaintModel",
        "list[PaintModel]",
        "tuple[tuple[float, PaintModel], ...]",
        "dict[str, PaintModel]",
        "PaintModel | None",
        "float | PaintModel",
        "tuple[PaintModel, PaintModel] | None",
    ]
    assert info["mixed"].source is None


def test_describe_lists_every_shipped_policy_by_slot_and_name() -> None:
    listed = [info for info in describe() if info.location.startswith("policies.")]
    assert [(info.slot, info.name) for info in listed] == sorted((info.slot, info.name) for info in listed)
    p2c = next(info for info in listed if info.name == "power-of-two-choices")
    assert p2c.slot == "routing"
    assert p2c.summary.startswith("Sample `choices` replicas")
    assert p2c.source is not None
    assert p2c.source.startswith('Mitzenmacher, "The Power of Two Choices')
    assert p2c.parameters == (ParameterInfo("choices", "int >= 1", "2"),)
    assert [info.name for info in listed if info.oracle] == ["shortest-remaining-oracle", "least-work-oracle"]


def test_describe_includes_what_entry_points_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, offered=f"{__name__}:Plain", other_family="policies:Random")
    assert "plain" in {info.name for info in describe(PaintModel)}


def test_base_classes_are_not_listed() -> None:
    assert not {info.location.partition(":")[0] for info in describe()} & {
        "policies.base",
        "policies.routing.parts",
    }
    assert Policy not in [Struct, *RoutingPolicy.__subclasses__()]


# --- the names of these tests' own classes -------------------------------------------------------------------------

ALL_NAMES = """
import collections, importlib, pkgutil
import tests
from policies.base import Component
from policies.registry import classes, qualified

for module in pkgutil.walk_packages(tests.__path__, "tests."):
    importlib.import_module(module.name)
who = collections.defaultdict(set)
for cls in classes(Component):
    if cls.__module__.startswith("tests."):
        who[cls.slot, cls.name()].add(qualified(cls))
for (slot, name), found in sorted(who.items()):
    if len(found) > 1:
        print(slot, name, *sorted(found))
"""


def test_no_two_classes_of_the_tests_go_by_one_name() -> None:
    """Any test process may have imported any of them, and a name that two go by is refused."""
    done = subprocess.run(
        [sys.executable, "-c", ALL_NAMES], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout, done.stdout
