"""The metric that decides, ratios, failed runs, how many seeds are needed, and a report that is saved whole."""

import filecmp
import math
from statistics import stdev

import msgspec
import pytest

from experiments import Metric, Report, compare, load_report, power
from experiments.findings import Findings
from experiments.measured import Measured
from experiments.paired import holm, paired_difference, paired_ratio
from experiments.power import chance_of, seeds_needed
from fleet import FleetSpec
from policies import PowerOfTwoChoices, Random, Route, RoutingPolicy
from traces import Trace

METRICS = ["e2e_s.p99", "e2e_s.mean", "utilization"]


class LosesItsNerve(RoutingPolicy):
    """Routes to the first replica, and raises at the tenth request of runs whose first draw is above `calm`."""

    calm: float = 0.5

    def reset(self, rng):
        self.left = 10 if rng.random() > self.calm else 10**9

    def route(self, request, replicas, now_s):
        self.left -= 1
        if not self.left:
            raise ArithmeticError("no nerve left")
        return Route(replicas[0].id)


@pytest.fixture(scope="module")
def report(trace: Trace, base: FleetSpec) -> Report:
    routings = {"random": Random(), "p2c": PowerOfTwoChoices(), "three": PowerOfTwoChoices(choices=3)}
    specs = {name: base.replace(routing=routing) for name, routing in routings.items()}
    return compare(trace, specs, seeds=range(5), metrics=METRICS, primary="e2e_s.p50", progress=False)


def test_the_verdicts_on_the_primary_metric_are_corrected_among_themselves(report: Report) -> None:
    families = {row.metric: row.family for row in report.rows}
    assert families == {"e2e_s.p50": "primary", **dict.fromkeys(METRICS, "secondary")}
    for family, size in (("primary", 2), ("secondary", 4)):
        judged = [row for row in report.rows if row.family == family and row.p_adjusted is not None]
        assert len(judged) == size
        assert [row.p_adjusted for row in judged] == holm([row.difference.p_value for row in judged])


def test_the_verdict_on_the_primary_metric_comes_first_in_a_sentence(report: Report) -> None:
    first = " ".join(str(report).split())
    row = report.row("e2e_s.p50", "p2c")
    assert row.verdict == "better"
    assert first.startswith("p2c is better in e2e p50 (ms) by ")
    assert f"(×{row.ratio:.3f}, 95 % interval [" in first
    assert [line.partition(" ")[0] for line in report.verdict_in_short] == ["p2c", "three"]


def test_a_primary_metric_without_a_verdict_is_told_with_what_there_is_instead(
    trace: Trace, base: FleetSpec
) -> None:
    specs = {"random": base.replace(routing=Random()), "p2c": base.replace(routing=PowerOfTwoChoices())}
    options = {"metrics": ["e2e_s.p99"], "primary": "completed", "progress": False}
    [same] = compare(trace, specs, seeds=range(2), **options).verdict_in_short
    [alone] = compare(trace, specs, seeds=[0], **options).verdict_in_short
    assert same == "p2c: completed 0 (×1.000): same in every run."
    assert alone == "p2c: completed 0 (×1.000): n=1, no interval."


def test_a_metric_without_a_better_way_decides_nothing(trace: Trace, base: FleetSpec) -> None:
    own = Metric("mine", "", lambda run: 1.0)
    for primary in ("utilization", own):
        with pytest.raises(ValueError, match="cannot be primary: it has no better way"):
            compare(trace, {"one": base}, seeds=[0], primary=primary, progress=False)


def test_a_ratio_is_tested_on_logarithms_and_told_as_a_ratio() -> None:
    ones, others = [2.0, 4.2, 7.9, 16.5], [1.0, 2.0, 4.0, 8.0]
    logs = [math.log(one / other) for one, other in zip(ones, others, strict=True)]
    plain, found = paired_difference(logs, distinct=4), paired_ratio(ones, others, distinct=4)
    assert found.mean == pytest.approx(math.exp(plain.mean))
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert found.p_value == pytest.approx(plain.p_value)
    assert found.excludes_nothing
    assert not found.favours("lower")


def test_values_of_0_are_judged_by_their_differences_and_that_is_said(trace: Trace, base: FleetSpec) -> None:
    specs = {"random": base.replace(routing=Random()), "p2c": base.replace(routing=PowerOfTwoChoices())}
    zero = Metric("zero or one", "", lambda run: float(run.manifest.seed % 2), better="lower")
    report = compare(trace, specs, seeds=range(4), metrics=["e2e_s.p99", zero], scale="ratio", progress=False)
    assert report.row("e2e_s.p99", "p2c").difference.scale == "ratio"
    assert report.row("zero or one", "p2c").difference.scale == "difference"
    assert "On the scale of differences, because some value is 0 or less: zero or one." in report.notes


def test_a_run_that_fails_is_named_first_and_the_others_are_kept(
    trace: Trace, base: FleetSpec, tmp_path
) -> None:
    specs = {"random": base.replace(routing=Random()), "nervous": base.replace(routing=LosesItsNerve())}
    report = compare(trace, specs, seeds=range(8), metrics=["e2e_s.p99"], progress=False)
    lost = [one.seed for one in report.errors]
    assert 0 < len(lost) < 8
    assert len(report.runs["random"]) == 8
    assert [run.manifest.seed for run in report.runs["nervous"]] == [
        seed for seed in range(8) if seed not in lost
    ]
    assert report.failed[0].startswith(f"nervous failed in {len(lost)} of 8 runs (seed")
    assert "no nerve left" in report.failed[0]
    assert " ".join(str(report).split()).startswith("nervous failed in ")
    assert report.row("e2e_s.p99", "nervous").difference.pairs == 8 - len(lost)
    loaded = load_report(report.save(tmp_path / "report"))
    assert loaded.failed == report.failed


def test_where_every_run_fails_the_first_error_is_raised(trace: Trace, base: FleetSpec) -> None:
    never = base.replace(routing=LosesItsNerve(calm=0.0))
    with pytest.raises(Exception, match="no nerve left"):
        compare(trace, {"nervous": never}, seeds=[3], progress=False)


def test_a_report_is_saved_and_loaded_whole(report: Report, tmp_path) -> None:
    loaded = load_report(report.save(tmp_path / "one"))
    assert str(loaded) == str(report)
    assert loaded.rows == report.rows
    assert loaded.measured == report.measured
    for name, runs in report.runs.items():
        for one, other in zip(runs, loaded.runs[name], strict=True):
            assert one.digest == other.digest
            assert all(table.equals(other.tables[of]) for of, table in one.tables.items())
    loaded.save(tmp_path / "two")
    for name in ("manifest.json", "report.html"):
        assert filecmp.cmp(tmp_path / "one" / name, tmp_path / "two" / name, shallow=False), name


def test_what_is_no_report_is_refused(tmp_path) -> None:
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode({"digest": ""}))
    with pytest.raises(ValueError, match=r"manifest\.json is not of a saved report"):
        load_report(tmp_path)


@pytest.mark.parametrize("scale", ["difference", "ratio"])
def test_what_differs_by_rounding_alone_does_not_differ(scale) -> None:
    def runs(candidate: str, *values: float) -> list[Measured]:
        return [
            Measured(candidate=candidate, seed=seed, fingerprint=f"{candidate}{seed}", values={"own": value})
            for seed, value in enumerate(values)
        ]

    values = [0.1, 0.2, 0.3, 0.4]
    measured = {"base": runs("base", *values), "it": runs("it", *(value * (1.0 + 4e-16) for value in values))}
    own = Metric("own", "", lambda run: None, better="lower")
    found = Findings(measured, [own], manifests={}, seeds=range(4), baseline="base", scale=scale)

    row = found.row("own", "it")
    assert (row.verdict, row.difference.mean) == ("exact", row.difference.nothing)


# --- how many seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "level", "chance", "seeds"),
    [(0.5, 0.05, 0.8, 34), (0.8, 0.05, 0.9, 19), (0.2, 0.05, 0.8, 199), (1.0, 0.01, 0.9, 19)],
)
def test_seeds_agree_with_the_tables_of_paired_t_tests(effect, level, chance, seeds) -> None:
    # The first three are in every table of such tests (Cohen 1988; G*Power); the last by simulation below.
    found = seeds_needed(effect, level=level, chance=chance)
    assert found == pytest.approx(seeds, abs=1)
    assert chance_of(effect, found, level=level) >= chance > chance_of(effect, found - 1, level=level)


def test_power_is_asked_of_the_primary_metric_at_the_level_that_its_family_leaves(report: Report) -> None:
    found = power(report, 0.05)
    assert [(one.metric, one.candidate) for one in found] == [("e2e_s.p50", "p2c"), ("e2e_s.p50", "three")]
    assert {one.level for one in found} == {0.025}
    one = found[0]
    assert one.seeds == seeds_needed(0.05 / one.deviation, level=0.025, chance=0.8)
    assert "Seeds for a 80% chance to show 5.0%, from 5 seeds" in str(found)
    assert {item.metric for item in power(report, 0.05, metric="e2e_s.p99")} == {"e2e_s.p99"}


def test_power_is_of_the_logarithms_where_ratios_are_judged(report: Report) -> None:
    ratios = Findings(
        report.measured, report.metrics, manifests=report.manifests, seeds=report.seeds, baseline=report.baseline,
        primary=report.primary, scale="ratio",
    )  # fmt: skip
    one = power(ratios, 0.5)[0]
    pairs = zip(ratios.measured[one.candidate], ratios.measured[ratios.baseline], strict=True)
    logs = [math.log(mine.values[one.metric] / its.values[one.metric]) for mine, its in pairs]
    assert one.deviation == pytest.approx(stdev(logs))
    assert one.seeds == seeds_needed(math.log(1.5) / stdev(logs), level=0.025, chance=0.8)


@pytest.mark.parametrize(
    ("effect", "options"), [(0.0, {}), (0.1, {"chance": 1.0}), (0.1, {"metric": "luck"})]
)
def test_power_refuses_what_means_nothing(report: Report, effect, options) -> None:
    with pytest.raises(ValueError, match=r"are wanted|has no 'luck'"):
        power(report, effect, **options)
