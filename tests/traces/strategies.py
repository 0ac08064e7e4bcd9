"""Hypothesis strategies: any entry, any trace."""

from hypothesis import settings
from hypothesis import strategies as st

from traces import Header, Observed, Request, Slo, Trace, TraceEntry, Transform

SECONDS = st.floats(0, 1e6, allow_nan=False)
TOKENS = st.integers(0, 2**40)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NAMES | st.floats(-1e9, 1e9)


def _maybe(strategy):
    return st.none() | strategy


slos = st.builds(Slo, _maybe(SECONDS), _maybe(SECONDS), _maybe(SECONDS)).filter(lambda slo: slo != Slo())
observed = st.builds(Observed, *[_maybe(SECONDS)] * 4, _maybe(st.booleans())).filter(
    lambda o: o != Observed()
)


def requests(id):
    return st.builds(
        Request,
        id=st.just(id),
        # Few values, so that many requests share an instant.
        arrived_s=st.sampled_from([0.0, 0.5, 3.0]) | SECONDS,
        prompt_tokens=_maybe(TOKENS),
        blocks=_maybe(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple)),
        block_tokens=_maybe(st.integers(1, 4096)),
        session=_maybe(NAMES),
        turn=_maybe(st.integers(0, 9)),
        parent=_maybe(NAMES),
        model=_maybe(NAMES),
        adapter=_maybe(NAMES),
        tenant=_maybe(NAMES),
        user=_maybe(NAMES),
        kind=st.sampled_from(["online", "batch"]),
        priority=_maybe(st.integers(-5, 5)),
        deadline_s=_maybe(SECONDS),
        slo=_maybe(slos),
        work=_maybe(SECONDS),
        extra=_maybe(st.dictionaries(NAMES, SCALARS, max_size=3)),
    )


def _entry(id):
    return st.builds(TraceEntry, requests(id), _maybe(TOKENS), _maybe(observed), _maybe(SECONDS))


entries = st.integers(0, 3).flatmap(lambda n: st.tuples(*(_entry(f"r{i}") for i in range(n)))).map(list)

headers = st.builds(
    Header,
    source=NAMES,
    licence=_maybe(NAMES),
    citation=_maybe(NAMES),
    offset_s=st.sampled_from([0.0, 86_400.0]),
    provenance=st.sampled_from(["recorded", "derived", "fitted", "synthetic", "unknown"]),
    transforms=st.lists(
        st.builds(Transform, NAMES, st.dictionaries(NAMES, SCALARS, max_size=2), _maybe(st.integers(0, 99))),
        max_size=2,
    ).map(tuple),
)

traces = st.builds(Trace.from_entries, entries, headers)

few = settings(max_examples=15)
"""For laws whose examples are costly to draw."""
