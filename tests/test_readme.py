"""What README says of its first policy is what its own snippets give."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import Report
from tests.conftest import ROOT
from tests.test_docs import blocks_of

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def first() -> dict[str, Any]:
    """The names that the snippets up to the comparison leave."""
    names: dict[str, Any] = {}
    for block in blocks_of(README):
        if block.language == "python":
            exec(compile(_quiet(block.code), README.name, "exec"), names)  # our own text
        if "report" in names:
            return names
    raise AssertionError("README compares nothing")


def _quiet(code: str) -> str:
    """Without what only prints or writes."""
    return "".join(
        line for line in code.splitlines(keepends=True) if not line.startswith(("print(", "report.save("))
    )


def _row(report: Report, figure: str) -> str:
    row = report.row(f"e2e_s.{figure}", "fewest")
    baseline = report.row(f"e2e_s.{figure}", "round-robin")
    assert row.difference is not None
    low, mean, high = (
        f"{1000 * value:+.1f}".replace("-", "−")
        for value in (row.difference.low, row.difference.mean, row.difference.high)
    )
    means = f"{1000 * baseline.mean:.1f} | {1000 * row.mean:.1f}"
    return f"| {figure} | {means} | {mean} [{low}, {high}] | {row.verdict} |"


@pytest.mark.parametrize("figure", ["p99", "mean", "p50"])
def test_the_table_of_the_first_comparison_is_what_it_gives(first: dict[str, Any], figure: str) -> None:
    assert _row(first["report"], figure) in README.read_text(encoding="utf-8").splitlines()


def test_the_first_policy_wins_at_a_load_that_matters(first: dict[str, Any]) -> None:
    utilization = first["run"].summary.utilization
    assert 0.7 <= utilization <= 0.9
    assert f"a fleet that is {utilization:.0%}".replace("%", " %") in README.read_text(encoding="utf-8")
