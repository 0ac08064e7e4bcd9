"""What findings come to in words: the title, a sentence for each candidate, what a reader must know, a row's cells."""

from __future__ import annotations

from experiments.findings import LEVEL, LITTLE, Findings, Row
from experiments.lacks import in_words
from experiments.text import decimals, plain_number, signed_number

WORTH_SAYING = 0.9
"""Of what completed less than this, it is said before anything else."""


def title(found: Findings) -> str:
    """What was compared, in a line."""
    first = found.runs[found.baseline][0].manifest
    source = first.trace["header"]["source"]
    what = f"trace {source} ({first.trace['requests']:,} requests, {first.trace['sha256'][:8]})"
    if found.resampled:
        what = f"{len(found.seeds)} traces like {source} (one a seed)"
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) != 1 else ''}"
    return f"{len(found.runs)} candidates on {what}, {seeds}, {first.runtime}; baseline: {found.baseline}"


def left_undone(found: Findings) -> list[str]:
    """A sentence for each candidate that left much undone: whatever else is said of it is said of the rest."""
    said = []
    for name, runs in found.runs.items():
        share = found.completed_share(name)
        if share is None or share >= WORTH_SAYING:
            continue
        done, submitted = (
            sum(getattr(run.summary, field) for run in runs) for field in ("completed", "submitted")
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
    return [_sentence(found, name) for name in found.runs if name != found.baseline and len(found.seeds) > 1]


def _sentence(found: Findings, candidate: str) -> str:
    """What one candidate is: "memory against random: better in e2e p99 (×0.812); worse in gpu seconds (×1.020)"."""
    if not any(row.candidate == candidate and row.difference is not None for row in found.rows):
        return f"{candidate} against {found.baseline}: no figure has a value in both."
    ways: dict[str, list[str]] = {"better": [], "worse": []}
    for row in found.rows:
        if row.candidate != candidate or row.difference is None or not row.difference.mean:
            continue
        if row.ratio is not None and f"{row.ratio:.3f}" == "1.000":
            continue  # as good as equal, whatever the test says; the table has it
        judged = row.verdict
        if judged == "exact" and row.better != "neither":
            judged = "better" if (row.difference.mean < 0) == (row.better == "lower") else "worse"
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
        if len(found.runs[found.baseline]) > 1 and not found.resampled:
            notes.append(
                "One trace for all seeds: the intervals are about chance within this trace, not about other traffic. "
                "Pass a function seed -> Trace to resample the arrivals."
            )
        method = "Student's t" if found.interval == "t" else "BCa bootstrap"
        notes.append(
            f"Intervals: {method} over paired differences, a run being one observation. Verdicts: the interval "
            f"excludes zero and the test holds at {LEVEL:g} after Holm's correction over all verdicts here."
        )
        unsure = [
            row
            for row in found.rows
            if row.verdict == "no difference shown"
            and row.difference is not None
            and row.difference.excludes_zero
        ]
        if unsure:
            named = ", ".join(f"{row.label} of {row.candidate}" for row in unsure)
            notes.append(f"Zero is outside the interval, but not after the correction: {named}.")
    return notes


def _can_jitter(found: Findings) -> bool:
    """Whether any engine of the report has a parameter that makes it noisy; not all have one."""
    specs = [runs[0].manifest.spec for runs in found.runs.values()]
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
    shown = difference.mean * row.scale
    # Three digits of the difference, but none far beyond those of the mean: they would be noise.
    places = min(decimals(shown, 3), decimals(row.mean * row.scale, 4) + 1)
    interval = ""
    if difference.low is not None and difference.high is not None:
        low, high = difference.low * row.scale, difference.high * row.scale
        interval = f"[{signed_number(low, places=places)}, {signed_number(high, places=places)}]"
    judged: str = row.verdict or "–"
    if row.verdict == "exact":
        judged = "exact (deterministic)" if difference.deterministic else "same in every run"
        if not difference.deterministic and difference.mean:
            judged = "always by that much"
    elif row.verdict == "not judged":
        judged = f"n={difference.pairs}, no interval" if difference.low is None else "–"
    delta = signed_number(shown, places=places if interval else None)
    return mean, delta, interval, f"{row.ratio:.3f}" if row.ratio is not None else "", judged
