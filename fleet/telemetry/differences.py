"""In what two runs that should be one and the same differ: table by table, figure by figure, version by version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from fleet.telemetry.documents import encoded
from fleet.telemetry.run import OF_ATTEMPTS, TABLES, Manifest, Run
from traces.columns import digest

JUDGED = (*TABLES, *OF_ATTEMPTS)
"""The tables that are compared: what was watched of a run is no part of what it is."""
MOST_SHOWN = 6
"""Values of one part that are told one by one."""
LONGEST = 24
"""Characters of a value that are told: enough to tell two hashes apart."""
_APART = ("files", "machine")
"""Of a manifest: no part of the digest, or of live runs."""
_ABSENT = "nothing"


class Difference(NamedTuple):
    """One part of a run that is not what it was."""

    part: str
    """`records`, `summary`, `versions`, `components`, …"""
    what: str


def differences(then: Run, now: Run) -> list[Difference]:
    """All of them; none where the same code ran the same inputs."""
    return [*_of_manifests(then, now), *_of_tables(then, now), *_of_summaries(then, now)]


def _of_manifests(then: Run, now: Run) -> Iterator[Difference]:
    before, after = _plain(then.manifest), _plain(now.manifest)
    for part in before:
        if part not in _APART and before[part] != after[part]:
            yield Difference(part, _told(before[part], after[part]))


def _plain(manifest: Manifest) -> dict[str, Any]:  # Any: JSON values
    """Its parts, with each component under its place in the spec."""
    plain: dict[str, Any] = msgspec.json.decode(encoded(manifest))
    plain["components"] = {item.path: {item.component: item.sha256} for item in manifest.components}
    return plain


def _of_summaries(then: Run, now: Run) -> Iterator[Difference]:
    before, after = (msgspec.to_builtins(run.summary) for run in (then, now))
    if before != after:
        yield Difference("summary", _told(before, after))


def _of_tables(then: Run, now: Run) -> Iterator[Difference]:
    for name in JUDGED:
        before, after = getattr(then, name), getattr(now, name)
        if digest(before, name) != digest(after, name):
            yield Difference(name, _told_of_tables(before, after))


def _told_of_tables(before: pa.Table, after: pa.Table) -> str:
    if before.num_rows != after.num_rows:
        return f"{before.num_rows:,} rows then, {after.num_rows:,} now"
    if before.column_names != after.column_names:
        return f"columns {', '.join(before.column_names)} then, {', '.join(after.column_names)} now"
    columns = [name for name in before.column_names if before[name].to_pylist() != after[name].to_pylist()]
    pairs = zip(before.select(columns).to_pylist(), after.select(columns).to_pylist(), strict=True)
    rows = [number for number, (old, new) in enumerate(pairs) if old != new]
    if not rows:
        return "the values agree, and their types differ"
    return f"{len(rows):,} of {before.num_rows:,} rows differ, the first is row {rows[0]:,}, in {', '.join(columns)}"


def _told(before: Any, after: Any) -> str:  # Any: JSON values
    """`e2e_s.p99 0.12 then, 0.13 now; ...`: the leaves that differ."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    paths = [path for path in {**old, **new} if old.get(path, _ABSENT) != new.get(path, _ABSENT)]
    told = [
        f"{path} {_short(old, path)} then, {_short(new, path)} now".strip() for path in paths[:MOST_SHOWN]
    ]
    more = [f"and {len(paths) - MOST_SHOWN:,} more"] if len(paths) > MOST_SHOWN else []
    return "; ".join(told + more) or "in their order"


def _short(leaves: Mapping[str, Any], path: str) -> str:
    text = str(leaves.get(path, _ABSENT))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # Any: JSON values
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value
