"""What findings come to in words: the title, a sentence for each candidate, what a reader must know, a row's cells."""

from __future__ import annotations

from experiments.findings import LEVEL, LITTLE, Findings, Row
from experiments.lacks import in_words
from experiments.measured import Measured
from experiments.paired import Difference
from experiments.text import decimals, plain_number, signed_number

WORTH_SAYING = 0.9
"""Of what completed less than this, it is said before anything else."""

MOST_NAMED = 5
"""Candidates that one sentence names."""


def title(found: Findings) -> str:
    """What was compared, in a line."""
    first = found.manifests.get(found.baseline) or next(iter(found.manifests.values()))
    source = first.trace["header"]["source"]
    what = f"trace {source} ({first.trace['requests']:,} requests, {first.trace['sha256'][:8]})"
    if found.resampled:
        what = f"{len(found.seeds)} traces like {source} (one a seed)"
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) != 1 else ''}"
    return f"{len(found.measured)} candidates on {what}, {seeds}, {first.runtime}; baseline: {found.baseline}"


def verdict_in_short(found: Findings) -> list[str]:
    """A sentence for each candidate with the verdict on the primary metric; none where no metric is primary."""
    return [
        _primary_sentence(row) for row in found.rows if row.family == "primary" and row.verdict is not None
    ]


def verdict_at_once(found: Findings) -> str:
    """The one sentence to read first: the verdict on the primary metric, or that none was named to decide."""
    rows = [row for row in found.rows if row.family == "primary" and row.verdict is not None]
    if found.primary is None:
        return (
            "No metric was named beforehand as the one that decides: all verdicts below are one family, and of "
            "equal weight."
        )
    if not rows:
        return f"{found.primary.label} decides, and no candidate has a value of it to hold against {found.baseline}."
    if len(rows) == 1:
        return _primary_sentence(rows[0])
    counted = "; ".join(_those_with(verdict, rows) for verdict in dict.fromkeys(row.verdict for row in rows))
    return f"In {found.primary.label}, against {found.baseline}: {counted}."


def _those_with(verdict: str | None, rows: list[Row]) -> str:
    """Which of them have this verdict, the first few by name."""
    own = [row for row in rows if row.verdict == verdict]
    more = f" and {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    return f"{verdict}: {', '.join(map(_with_ratio, own[:MOST_NAMED]))}{more}"


def _with_ratio(row: Row) -> str:
    """Who, for which group if there are groups, and how it compares."""
    group = row.metric.partition("@")[2]
    ratio = f" (×{row.ratio:.3f})" if row.ratio is not None else ""
    return f"{row.candidate}{f' for {group}' if group else ''}{ratio}"


def _primary_sentence(row: Row) -> str:
    _, delta, interval, times, judged = cells(row)
    where = f", 95 % interval {interval}" if interval else ""
    ratio = f" (×{times}{where})" if times else where
    if row.verdict in ("better", "worse"):
        size = f" by {delta.lstrip('+-')}" if delta not in ("", "0") else ""
        return f"{row.candidate} is {row.verdict} in {row.label}{size}{ratio}."
    if row.verdict == "no difference shown":
        return f"{row.candidate} shows no difference in {row.label}{ratio}."
    return f"{row.candidate}: {row.label}{f' {delta}' if delta else ''}{ratio}: {judged}."


def failed(found: Findings) -> list[str]:
    """A sentence for each candidate that has runs which failed, with what the first of them raised."""
    of_one: dict[str, list[Measured]] = {}
    for one in found.errors:
        of_one.setdefault(one.candidate, []).append(one)
    return [
        f"{name} failed in {len(errors)} of {len(found.seeds)} runs (seed"
        f"{'s' if len(errors) > 1 else ''} {', '.join(str(one.seed) for one in errors)}): {errors[0].error}"
        for name, errors in of_one.items()
    ]


def left_undone(found: Findings) -> list[str]:
    """A sentence for each candidate that left much undone: whatever else is said of it is said of the rest."""
    said = []
    for name, measured in found.measured.items():
        share = found.completed_share(name)
        if share is None or share >= WORTH_SAYING:
            continue
        done, submitted = (
            sum(getattr(one, field) for one in measured) for field in ("completed", "submitted")
        )
        what = "nothing" if not done else f"{done:,}"
        rest = "its latencies and its price are of the few that did and are not judged"
        if share >= LITTLE:
            rest = "its latencies are of those only, and what it left undone cost it little"
        elif not done:
            rest = "it has no latencies, and its price bought nothing"
        said.append(f"{name} completed {what} of {submitted:,} requests ({share:.1%}): {rest}.")
    return said


def in_short(found: Findings) -> list[str]:
    """For each candidate but the baseline: what it is better at and what it is worse at, in a sentence."""
    return [
        _sentence(found, name) for name in found.measured if name != found.baseline and len(found.seeds) > 1
    ]


def _sentence(found: Findings, candidate: str) -> str:
    """What one candidate is: "memory against random: better in e2e p99 (×0.812); worse in gpu seconds (×1.020)"."""
    if not any(row.candidate == candidate and row.difference is not None for row in found.rows):
        return f"{candidate} against {found.baseline}: no figure has a value in both."
    ways: dict[str, list[str]] = {"better": [], "worse": []}
    for row in found.rows:
        difference = row.difference
        if row.candidate != candidate or difference is None or difference.mean == difference.nothing:
            continue
        if row.ratio is not None and f"{row.ratio:.3f}" == "1.000":
            continue  # as good as equal, whatever the test says; the table has it
        judged = row.verdict
        if judged == "exact" and row.better != "neither":
            judged = "better" if difference.favours(row.better) else "worse"
        if judged in ways:
            name = row.label.partition(" (")[0]
            ways[judged].append(f"{name} (×{row.ratio:.3f})" if row.ratio is not None else name)
    said = "; ".join(f"{judged} in {', '.join(names)}" for judged, names in ways.items() if names)
    return f"{candidate} against {found.baseline}: {said or 'no difference shown'}."


def notes_of(found: Findings) -> list[str]:
    """What a reader must know to read the table rightly."""
    notes = in_words(found.lacks)
    if found.zeros:
        notes.append(f"0 in every run: {', '.join(label.partition(' (')[0] for label in found.zeros)}.")
    if found.deterministic:
        notes.append(
            f"1 distinct run out of {len(found.seeds)}, because the seed changes nothing in them: "
            f"{', '.join(found.deterministic)}."
        )
    if any(row.difference is not None and row.difference.deterministic for row in found.rows):
        jitter = ", or an engine with jitter," if _can_jitter(found) else ""
        notes.append(
            "A deterministic difference holds for this trace and says nothing of others. A trace for each seed"
            f"{jitter} gives an interval: one synthesized with the seed, or another stretch of a recorded one "
            "(lambda seed: trace.slice(60 * seed, 60 * (seed + 1)); fleet compare: --stretch-s 60)."
        )
    if len(found.seeds) == 1:
        notes.append("One seed: differences without intervals, and no verdicts. Give more seeds.")
    if any(row.p_adjusted is not None for row in found.rows):
        if len(found.seeds) > 1 and not found.resampled:
            notes.append(
                "One trace for all seeds: the intervals are about chance within this trace, not about other traffic. "
                "Pass a function seed -> Trace to resample the arrivals (fleet compare: --stretch-s 60)."
            )
        method = "Student's t" if found.interval == "t" else "BCa bootstrap"
        over = "all verdicts here"
        if found.primary is not None:
            over = "the primary verdicts, and over the secondary ones apart from them"
        on, zero = ("ratios", "1") if found.scale == "ratio" else ("differences", "zero")
        notes.append(
            f"Intervals: {method} over paired {on}, a run being one observation. Verdicts: the interval excludes "
            f"{zero} and the test holds at {LEVEL:g} after Holm's correction over {over}."
        )
        plain = [] if found.scale == "difference" else [row for row in found.rows if _on_differences(row)]
        if plain:
            labels = dict.fromkeys(row.label.partition(" (")[0] for row in plain)
            notes.append(
                f"On the scale of differences, because some value is 0 or less: {', '.join(labels)}."
            )
        unsure = [
            row
            for row in found.rows
            if row.verdict == "no difference shown"
            and row.difference is not None
            and row.difference.excludes_nothing
        ]
        if unsure:
            named = ", ".join(f"{row.label} of {row.candidate}" for row in unsure)
            notes.append(
                f"{zero.capitalize()} is outside the interval, but not after the correction: {named}."
            )
    return notes


def _can_jitter(found: Findings) -> bool:
    """Whether any engine of the report has a parameter that makes it noisy; not all have one."""
    specs = [manifest.spec for manifest in found.manifests.values()]
    pools = [pool for spec in specs for pool in (spec, *spec.get("pools", {}).values())]
    return any(_names_jitter(pool.get("engine")) for pool in pools)


def _names_jitter(value: object) -> bool:
    return isinstance(value, dict) and any(
        "jitter" in key or _names_jitter(item) for key, item in value.items()
    )


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Mean, difference, interval, ratio and verdict of a row as text."""
    mean = plain_number(row.mean * row.scale)
    difference = row.difference
    if difference is None:
        return mean, "", "", "", "baseline" if row.verdict is None else "baseline has none"
    if difference.scale == "ratio":
        return mean, "", *_ratio_cells(difference), _judged(row, difference)
    shown = difference.mean * row.scale
    # Three digits of the difference, but none far beyond those of the mean: they would be noise.
    places = min(decimals(shown, 3), decimals(row.mean * row.scale, 4) + 1)
    interval = ""
    if difference.low is not None and difference.high is not None:
        low, high = difference.low * row.scale, difference.high * row.scale
        interval = f"[{signed_number(low, places=places)}, {signed_number(high, places=places)}]"
    delta = signed_number(shown, places=places if interval else None)
    return (
        mean,
        delta,
        interval,
        f"{row.ratio:.3f}" if row.ratio is not None else "",
        _judged(row, difference),
    )


def _ratio_cells(difference: Difference) -> tuple[str, str]:
    """Interval and mean of ratios."""
    if difference.low is None or difference.high is None:
        return "", f"{difference.mean:.3f}"
    return f"×[{difference.low:.3f}, {difference.high:.3f}]", f"{difference.mean:.3f}"


def _on_differences(row: Row) -> bool:
    return row.difference is not None and row.difference.scale == "difference"


def _judged(row: Row, difference: Difference) -> str:
    """The verdict in words."""
    judged: str = row.verdict or "–"
    if row.verdict == "exact":
        judged = "exact (deterministic)" if difference.deterministic else "same in every run"
        if not difference.deterministic and difference.mean != difference.nothing:
            judged = "always by that much"
    elif row.verdict == "not judged":
        judged = f"n={difference.pairs}, no interval" if difference.low is None else "–"
    return judged
