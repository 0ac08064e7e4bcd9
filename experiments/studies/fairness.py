"""``fleet study fairness``: what becomes of four polite tenants when a fifth one asks for many times its share?

Five tenants share one replica, each with a tenth of what it can do; from some time on one of them asks for up to
twenty times as much. What waits is taken first come, first served, in turns of tokens (deficit round robin, start-time
fair queueing), by what each tenant was served so far (the virtual token counter, before the replica or within it), or
by a priority that somebody has to give. The other way is a limit: each tenant may ask for a fifth of the capacity in
tokens, and what is more is refused, or has to wait. In a last setting two tenants ask for more than their share for
as long as the run lasts, which is what the counter's bound on the difference of their service is about.

Question: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (first come, first served lets one tenant
starve the others; the counter bounds the difference, isolates, and leaves nothing idle; rate limits waste capacity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow.compute as pc
from msgspec import Struct
from msgspec.structs import replace

from experiments.spread import jain
from experiments.studies.charts import Panel, lines
from experiments.studies.jobs import figures_by, run_all
from experiments.studies.result import Measure, StudyResult
from experiments.studies.study import Options, Study
from experiments.studies.workloads import BLOCK_TOKENS, engine
from experiments.text import plain_number
from fleet import FleetSpec, Run, simulate
from policies import (
    DeficitRoundRobin,
    FairTokens,
    Fifo,
    IterationPolicy,
    NoBatching,
    Priority,
    QueueingPolicy,
    TokenBucket,
    VirtualTokenCounter,
    VllmTokenBudget,
    WeightedFair,
)
from policies.admission.token_bucket import Tier
from traces import Lengths, Trace, merge, poisson

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

PROMPT, OUTPUT = Lengths.lognormal(136, 1.0), Lengths.lognormal(256, 0.8)
MEAN_TOKENS = 136 + 256
"""Short chats, about as long as those of the Chatbot Arena's log, which Sheng et al. replay."""
SEQUENCES, BLOCKS = 32, 1000
"""Of the replica: so many run at once, in a cache of 16,000 tokens, to which the bound on the difference goes."""
CAPACITY_PER_S = 10.0
"""Requests of these lengths that such a replica serves."""
TENANTS, POLITE_LOAD = 5, 0.1
"""Each asks for this part of the capacity, which is half of a fair share."""
GREEDY, ALSO_GREEDY = "greedy", "greedy-2"
ONSET_S = 20.0
"""When the greedy one becomes so."""
SETTLED_S = 15.0
"""After which two that ask for more than their share have requests waiting all the time."""
TTFT_S = 1.0
"""Within which a first token is in time."""
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""What a token counts for in service, as in the source."""
TWO = -1.0
TWO_TIMES = (12.0, 6.0)
"""The setting with two greedy tenants, and what each asks for, times what the polite ones do."""

BASELINE = "fifo"
COUNTER, WITHIN = "virtual token counter", "fair tokens, within the replica"
PRIORITY = "priority to the polite"
_AT_THE_HEAD: Mapping[str, QueueingPolicy] = {
    BASELINE: Fifo(),
    "deficit round robin": DeficitRoundRobin(),
    "weighted fair": WeightedFair(),
    COUNTER: VirtualTokenCounter(prompt_weight=PROMPT_WEIGHT, output_weight=OUTPUT_WEIGHT),
    PRIORITY: Priority(),
}
_WITHIN: Mapping[str, IterationPolicy] = {
    "token budget, within the replica": VllmTokenBudget(max_sequences=SEQUENCES),
    WITHIN: FairTokens(max_sequences=SEQUENCES, prompt_weight=PROMPT_WEIGHT, output_weight=OUTPUT_WEIGHT),
}
_SHARE_TOKENS_PER_S = CAPACITY_PER_S * MEAN_TOKENS / TENANTS
_TIER = Tier(tokens_per_s=_SHARE_TOKENS_PER_S, burst_tokens=10.0 * _SHARE_TOKENS_PER_S)
REFUSED, DELAYED = "limit, refused", "limit, delayed"
_LIMITS: Mapping[str, TokenBucket] = {
    REFUSED: TokenBucket(default=_TIER, output_tokens=256.0),
    DELAYED: TokenBucket(default=_TIER, output_tokens=256.0, over_rate="delay", max_delay_s=30.0),
}
FAIR = ("deficit round robin", "weighted fair", COUNTER, WITHIN)
LIMITS = tuple(_LIMITS)
CANDIDATES = (*_AT_THE_HEAD, *_WITHIN, *_LIMITS)
"""All but the two `within the replica` keep what waits at the head. `limit`: first come, first served behind a bucket
of each tenant that fills at a fifth of the capacity."""

GAP = Measure(name="gap_tokens", label="widest gap (tokens)", better="lower")
MEASURES = (
    Measure(name="polite_ttft_p99_s", label="polite: TTFT p99 (s)", better="lower"),
    Measure(name="polite_good", label=f"polite: within {TTFT_S:g} s (%)", better="higher", scale=100.0),
    Measure(name="greedy_good", label=f"greedy: within {TTFT_S:g} s (%)", better="neither", scale=100.0),
    Measure(name="greedy_per_s", label="greedy: served tokens/s", better="neither"),
    Measure(name="served_per_s", label="all: served tokens/s", better="higher"),
    Measure(name="jain", label="Jain's index of served to due", better="neither"),
    Measure(name="jain_tokens", label="Jain's index of served tokens", better="neither", shown=False),
    Measure(name="refused", label="refused (%)", better="neither", scale=100.0),
    GAP,
)
"""Tokens are weighed, and of the time since the greedy one became so. `gap_tokens` is of the last setting."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is run."""

    times: tuple[float, ...]
    """What the greedy tenant asks for, over what a polite one does."""
    greedy_s: float
    """How long it does."""
    seeds: int
    candidates: tuple[str, ...] = CANDIDATES


def spec_of(candidate: str) -> FleetSpec:
    """The fleet of a candidate."""
    # Nobody's prompt begins like another's.
    spec = FleetSpec(
        engine=engine(blocks=BLOCKS, prefix_caching=False), iteration=VllmTokenBudget(max_sequences=SEQUENCES)
    )
    if candidate in _WITHIN:
        return spec.replace(iteration=_WITHIN[candidate])
    spec = spec.replace(binding="late", batching=NoBatching(), max_inflight_batches=SEQUENCES)
    if candidate in _LIMITS:
        return spec.replace(admission=_LIMITS[candidate])
    return spec.replace(queueing=_AT_THE_HEAD[candidate])


def traffic(times: Sequence[float], greedy_s: float, seed: int) -> Trace:
    """All tenants' requests: as many of them are greedy as there are `times`, the others polite throughout.

    A tenant's ordinary requests are the same however greedy it becomes: Poisson processes add up.
    """
    duration_s = ONSET_S + greedy_s
    rate_per_s = POLITE_LOAD * CAPACITY_PER_S
    greedy = (GREEDY, ALSO_GREEDY)[: len(times)]
    parts = []
    for number in range(TENANTS):
        name = greedy[number] if number < len(greedy) else f"polite-{number}"
        priority = 0 if name in greedy else 1
        parts.append(
            _requests(rate_per_s, duration_s, TENANTS * seed + number).assign(tenant=name, priority=priority)
        )
        more_per_s = (times[number] - 1.0) * rate_per_s if number < len(greedy) else 0.0
        if more_per_s > 0.0:
            more = _requests(more_per_s, duration_s, 1000 + TENANTS * seed + number)
            parts.append(more.filter(pc.field("arrived_s") >= ONSET_S).assign(tenant=name, priority=priority))
    return merge(*parts)


def _requests(rate_per_s: float, duration_s: float, seed: int) -> Trace:
    return poisson(rate_per_s, duration_s, seed, prompt_tokens=PROMPT, output_tokens=OUTPUT)


class Job(Struct, frozen=True, kw_only=True):
    """One run."""

    trace: Trace
    spec: FleetSpec
    seed: int
    end_s: float
    """Until when requests come."""

    def run(self) -> dict[str, float]:
        """Its measures. The run goes on until all that was let in has ended, so that no wait is cut short."""
        run = simulate(self.trace, self.spec, seed=self.seed, check=False)
        records = run.records
        tenants = np.array(records["tenant"].to_pylist())
        since = records["arrived_s"].to_numpy() >= ONSET_S
        greedy = np.isin(tenants, (GREEDY, ALSO_GREEDY))
        ttft_s = records["ttft_s"].to_numpy()  # of one that is refused there is none
        names = sorted(set(tenants.tolist()))
        served = {name: served_tokens(run, name, (ONSET_S, self.end_s)) for name in names}
        gained = [float(of_one[1] - of_one[0]) for of_one in served.values()]
        prompt, output = records["prompt_tokens"].to_numpy(), records["output_tokens"].to_numpy()
        asked = PROMPT_WEIGHT * prompt + OUTPUT_WEIGHT * output
        demands = [float(asked[since & (tenants == name)].sum()) for name in names]
        due = max_min_shares(demands, sum(gained))
        seconds = self.end_s - ONSET_S
        found = {
            "polite_ttft_p99_s": float(np.nanpercentile(ttft_s[since & ~greedy], 99.0)),
            "polite_good": float((ttft_s[since & ~greedy] <= TTFT_S).mean()),
            "greedy_good": float((ttft_s[since & greedy] <= TTFT_S).mean()),
            "greedy_per_s": gained[names.index(GREEDY)] / seconds,
            "served_per_s": sum(gained) / seconds,
            "jain": jain([got / fair for got, fair in zip(gained, due, strict=True)]),
            "jain_tokens": jain(gained),
            "refused": run.summary.rejected / len(self.trace),
        }
        if ALSO_GREEDY in names:
            found[GAP.name] = widest_gap(run, ONSET_S + SETTLED_S, self.end_s)
        return found


def served_tokens(run: Run, tenant: str, at_s: Sequence[float] | Floats) -> Floats:
    """What a tenant had been served by each of these times: weighed tokens.

    As its clients see it: a prompt is served when its first token comes, and the others come evenly until the answer
    ends.
    """
    ours = run.records.filter(
        pc.and_(pc.equal(run.records["tenant"], tenant), pc.equal(run.records["outcome"], "completed"))
    )
    first_s = (ours["arrived_s"].to_numpy() + ours["ttft_s"].to_numpy())[:, None]
    tokens = ours["generated_tokens"].to_numpy()[:, None]
    lasts_s = np.maximum(ours["ended_s"].to_numpy()[:, None] - first_s, 1e-9)
    after_s = np.asarray(at_s)[None, :] - first_s
    output = np.clip(1.0 + (tokens - 1) * after_s / lasts_s, 0.0, tokens)
    weighed = PROMPT_WEIGHT * ours["prompt_tokens"].to_numpy()[:, None] + OUTPUT_WEIGHT * output
    total: Floats = np.where(after_s >= 0.0, weighed, 0.0).sum(axis=0)
    return total


def widest_gap(run: Run, begins_s: float, ends_s: float) -> float:
    """The most by which the service of the two greedy tenants differs over any stretch of this time.

    That is between the largest and the smallest of what one is ahead by.
    """
    at_s = np.arange(begins_s, ends_s, 0.1)
    ahead = served_tokens(run, GREEDY, at_s) - served_tokens(run, ALSO_GREEDY, at_s)
    return float(ahead.max() - ahead.min())


def gap_bound(longest_prompt: int, cache_tokens: int) -> float:
    """What two tenants' service may differ by under the counter while both have requests waiting.

    Source: Sheng et al., section 4: 2 max(w_p L, w_q M), with L the longest prompt and M the tokens of a full batch.
    """
    return 2.0 * max(PROMPT_WEIGHT * longest_prompt, OUTPUT_WEIGHT * cache_tokens)


def max_min_shares(demands: Sequence[float], total: float) -> list[float]:
    """What each gets of `total`: the smallest demands are met, and what is left is shared alike among the others.

    Source: Bertsekas and Gallager, "Data Networks", 2nd edition, 1992, section 6.5.2 (max-min fairness).
    """
    shares = [0.0] * len(demands)
    order = sorted(range(len(demands)), key=demands.__getitem__)
    for done, number in enumerate(order):
        shares[number] = min(demands[number], total / (len(demands) - done))
        total -= shares[number]
    return shares


def run(plan: Plan, options: Options) -> StudyResult:
    """All candidates with one greedy tenant and several greeds, then with two greedy ones."""
    if options.trace is not None:
        raise ValueError("fairness: its tenants ask for what the study says; --trace has no place in it")
    seeds = range(plan.seeds)
    settings = {**{times: (times,) for times in plan.times}, TWO: TWO_TIMES}
    traces = {at: [traffic(times, plan.greedy_s, seed) for seed in seeds] for at, times in settings.items()}
    jobs = {
        (at, name, seed): Job(trace=trace, spec=spec_of(name), seed=seed, end_s=ONSET_S + plan.greedy_s)
        for at, of_one in traces.items()
        for name in plan.candidates
        for seed, trace in zip(seeds, of_one, strict=True)
    }
    return StudyResult(
        study="fairness",
        setting="greedy tenant asks for",
        setting_names={f"{at:g}": _setting(times) for at, times in settings.items()},
        baseline=BASELINE,
        seeds=tuple(seeds),
        measures=MEASURES,
        figures=figures_by(run_all("runs", jobs, options), MEASURES, BASELINE),
        workload=f"one A100 with {SEQUENCES} sequences and {BLOCKS * BLOCK_TOKENS:,} tokens of cache, about "
        f"{CAPACITY_PER_S:g} short chats/s; {TENANTS} tenants at {POLITE_LOAD:g} of that each, greedy for "
        f"{plan.greedy_s:g} s",
        traces={f"{at:g}": [trace.sha256 for trace in of_one] for at, of_one in traces.items()},
        specs={name: spec_of(name).to_dict() for name in plan.candidates},
    )


def load_at(times: Sequence[float]) -> float:
    """What all tenants ask for, of the capacity."""
    return POLITE_LOAD * (TENANTS - len(times) + sum(times))


def _setting(times: Sequence[float]) -> str:
    return f"{' and '.join(f'{one:g}x' for one in times)} (load {load_at(times):g})"


def finding(result: StudyResult) -> tuple[str, ...]:
    """Who isolates, what the widest gap is beside its bound, and what is served in all."""
    greeds = [at for at in result.settings if at != TWO]
    least, most = greeds[0], greeds[-1]
    said = [_isolation(result, least, most)]
    if COUNTER in result.candidates and TWO in result.settings:
        said.append(_bound(result))
    fair, limits = (_named(result, names) for names in (FAIR, LIMITS))
    if fair:
        low, high = _of_baseline(result, most, fair)
        said.append(
            f"At {most:g}x the fair queues serve {low} to {high} % of the tokens that {BASELINE} does."
        )
    idle = [at for at in greeds if load_at((at,)) < 1.0]
    if limits and idle:
        low, high = _of_baseline(result, idle[-1], limits)
        said.append(
            f"At {result.named(idle[-1])}, which the replica can do, limits let {low} to {high} % through of what "
            f"{BASELINE} serves."
        )
    return tuple(said)


def _isolation(result: StudyResult, least: float, most: float) -> str:
    def p99(at: float, name: str) -> str:
        return plain_number(result.mean(at, name, "polite_ttft_p99_s"), digits=3)

    isolating = [name for name in result.candidates if result.mean(most, name, "polite_good") >= 0.95]
    others = [name for name in result.candidates if name not in isolating]
    return (
        f"As one tenant goes from {least:g} to {most:g} times what the polite ask for, their TTFT p99 goes from "
        f"{p99(least, BASELINE)} to {p99(most, BASELINE)} s under {BASELINE}. Of their first tokens 95 % and more come "
        f"within {TTFT_S:g} s under {_listed(isolating)}"
        + (f"; fewer do under {_listed(others)}." if others else ".")
    )


def _bound(result: StudyResult) -> str:
    gaps = {name: result.figure(TWO, name, GAP.name) for name in result.candidates}
    bound = gap_bound(
        BLOCKS * BLOCK_TOKENS, BLOCKS * BLOCK_TOKENS
    )  # no prompt is served that the cache cannot hold
    widest = max(value or 0.0 for value in gaps[COUNTER].by_seed)
    return (
        f"The service of two tenants that both ask for more than their share differs by up to "
        f"{gaps[BASELINE].mean:,.0f} weighed tokens under {BASELINE} and {gaps[COUNTER].mean:,.0f} under the counter "
        f"(at most {widest:,.0f} in a run), whose bound of {bound:,.0f} is {'kept' if widest <= bound else 'broken'}."
    )


def _named(result: StudyResult, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in result.candidates]


def _of_baseline(result: StudyResult, at: float, names: Sequence[str]) -> tuple[str, str]:
    """The least and the most that these serve there, in per cent of what the baseline does."""
    baseline = result.mean(at, BASELINE, "served_per_s")
    parts = [100.0 * result.mean(at, name, "served_per_s") / baseline for name in names]
    return plain_number(min(parts), digits=3), plain_number(max(parts), digits=3)


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


def draw(result: StudyResult) -> str:
    """The polite and the greedy one, by how greedy it is."""
    one_greedy = replace(result, figures=tuple(one for one in result.figures if one.at != TWO))
    panels = (
        Panel(measure="polite_ttft_p99_s", label="polite: TTFT p99 (s)", log=True),
        Panel(measure="polite_good", label=f"polite: within {TTFT_S:g} s (%)"),
        Panel(measure="greedy_per_s", label="greedy: served tokens/s", band=False),
        Panel(measure="served_per_s", label="all: served tokens/s", band=False),
    )
    x_label = "greedy tenant's rate (times a polite one's)"
    return lines(one_greedy, panels, x_label, x_log=True, x_ticks=one_greedy.settings)


STUDY = Study(
    name="fairness",
    title="Fairness: four polite tenants beside a greedy one, by how greedy it is",
    plans={
        "small": Plan(times=(1.0, 5.0, 20.0), greedy_s=25.0, seeds=2),
        "full": Plan(times=(1.0, 5.0, 10.0, 20.0), greedy_s=90.0, seeds=6),
    },
    run=run,
    draw=draw,
    finding=finding,
)
