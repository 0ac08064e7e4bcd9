"""Where queueing theory gives the answer, the simulation gives the same one, within its own confidence interval.

Closed forms are those of Kleinrock, "Queueing Systems", volumes 1 and 2, unless a test says otherwise. Time is in
mean service times. Every interval is required to be narrow too: a test that any answer passes shows nothing.
"""

import numpy as np
import pyarrow as pa
import pytest
from scipy import optimize, stats

from fleet import simulate
from fleet.runs.simulate import Simulation
from policies import (
    AdmissionPolicy,
    Admit,
    ConsecutiveFailures,
    LeastOutstanding,
    NoBatching,
    PowerOfTwoChoices,
    Priority,
    Random,
    RoundRobin,
    Window,
)
from tests.simulation.building import arrivals, decisions, engine, fleet
from traces import Fault, FaultTrace, Header, Trace, load_trace

QUIET = {"report_interval_s": 1e3, "probe_interval_s": 1e3, "control_interval_s": 1e3}
"""Nothing happens here but requests."""
CONFIDENCE = 0.99


def offered(rate_per_s, n, *, seed, work=None, priority=None) -> Trace:
    """Poisson arrivals; `work` draws the service times, which are exponential of mean 1 unless told otherwise."""
    rng = np.random.default_rng(seed)
    columns = {"arrived_s": np.cumsum(rng.exponential(1.0 / rate_per_s, n))}
    columns["work"] = rng.exponential(1.0, n) if work is None else work(rng, n)
    if priority is not None:
        columns["priority"] = priority(rng, n)
    return Trace(pa.table(columns), Header(source="oracle", provenance="synthetic"))


def waits(run) -> np.ndarray:
    return run.records["queue_s"].to_numpy()


def stays(run) -> np.ndarray:
    return run.records["e2e_s"].to_numpy()


def agree(values, expected, *, within=0.1, bias=0.0, batches=20):
    """`expected` lies in the interval of batch means of `values`, whose half-width is below `within` of it.

    Successive values depend on each other; the means of 20 long batches hardly do. The first tenth, while the
    queue fills, is left out.
    """
    settled = np.asarray(values, dtype=float)[len(values) // 10 :]
    means = np.array([part.mean() for part in np.array_split(settled, batches)])
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, batches - 1) * means.std(ddof=1) / np.sqrt(batches)
    assert half <= within * expected, (
        f"interval {means.mean():.4f} ± {half:.4f} is too wide to show {expected}"
    )
    assert abs(means.mean() - expected) <= half + bias * expected, (
        f"{means.mean():.4f} ± {half:.4f}, not {expected}"
    )


def erlang_c(c, load):
    """Probability of waiting in M/M/c at `load` = λ/μ."""
    blocking = 1.0
    for k in range(1, c + 1):
        blocking = load * blocking / (k + load * blocking)
    return c * blocking / (c - load * (1.0 - blocking))


# --- one queue -----------------------------------------------------------------------------------------------


def test_m_m_1_sojourn_is_exponential_of_rate_mu_less_lambda():
    run = simulate(offered(0.7, 60_000, seed=1), fleet(**QUIET), check=False)

    agree(stays(run), 1.0 / (1.0 - 0.7), within=0.12)
    agree(stays(run) > 5.0, np.exp(-(1.0 - 0.7) * 5.0), within=0.2)


def test_m_m_4_waits_as_erlang_c_says():
    run = simulate(offered(3.2, 100_000, seed=2), fleet(replicas=4, binding="late", **QUIET), check=False)

    chance = erlang_c(4, 3.2)
    assert chance == pytest.approx(0.596432, abs=1e-6)
    agree(waits(run) > 1e-9, chance)
    agree(waits(run), chance / (4.0 - 3.2), within=0.15)


def test_m_d_1_waits_half_as_long_as_m_m_1():
    trace = offered(0.8, 60_000, seed=3, work=lambda rng, n: np.ones(n))

    run = simulate(trace, fleet(**QUIET), check=False)

    agree(waits(run), 0.8 / (2.0 * (1.0 - 0.8)), within=0.12)


@pytest.mark.traces
def test_m_g_1_of_real_token_lengths_waits_as_pollaczek_and_khinchine_say(shared_trace):
    recorded = load_trace(shared_trace("azure-llm-2023/AzureLLMInferenceTrace_conv.csv")).table
    prompt, output = recorded["prompt_tokens"].to_numpy(), recorded["output_tokens"].to_numpy()
    service_s = 0.01 + 0.00005 * prompt + 0.005 * output
    rate = 0.7 / service_s.mean()
    trace = offered(rate, 60_000, seed=4, work=lambda rng, n: rng.choice(service_s, n))

    run = simulate(trace, fleet(**QUIET), check=False)

    agree(waits(run), rate * np.mean(service_s**2) / (2.0 * (1.0 - 0.7)), within=0.15)


def test_m_g_1_with_priorities_waits_as_cobham_says():
    urgent = 0.4
    trace = offered(0.8, 80_000, seed=5, priority=lambda rng, n: (rng.random(n) < urgent).astype(int))

    run = simulate(trace, fleet(queueing=Priority(), binding="late", **QUIET), check=False)

    residual = 0.8 * 2.0 / 2.0  # λ E[S²] / 2, and E[S²] = 2 for a mean of 1
    first = run.records["priority"].to_numpy() == 1
    agree(waits(run)[first], residual / (1.0 - 0.8 * urgent))
    agree(waits(run)[~first], residual / ((1.0 - 0.8 * urgent) * (1.0 - 0.8)), within=0.2)


# --- many queues ---------------------------------------------------------------------------------------------


def test_random_split_makes_independent_m_m_1_queues():
    run = simulate(offered(2.8, 60_000, seed=6), fleet(replicas=4, routing=Random(), **QUIET), check=False)

    agree(stays(run), 1.0 / (1.0 - 0.7), within=0.12)


def test_round_robin_makes_e_n_m_1_queues():
    n, rate = 4, 3.2

    run = simulate(
        offered(rate, 60_000, seed=7), fleet(replicas=n, routing=RoundRobin(), **QUIET), check=False
    )

    # GI/M/1: σ is the root below 1 of A*(μ(1 - σ)); the gaps at one queue are Erlang(n, λ).
    sigma = optimize.brentq(lambda s: (rate / (rate + 1.0 - s)) ** n - s, 0.0, 1.0 - 1e-6)
    agree(stays(run), 1.0 / (1.0 - sigma), within=0.12)


@pytest.mark.parametrize(("choices", "expected"), [(1, 10.0 / 3.0), (2, 1.61445), (3, 1.35684)])
def test_power_of_d_choices_at_500_replicas_follows_the_supermarket_model(choices, expected):
    trace = offered(0.7 * 500, 40_000, seed=8)
    spec = fleet(replicas=500, routing=PowerOfTwoChoices(choices=choices), **QUIET)

    run = simulate(trace, spec, check=False)

    # Mitzenmacher's table is the limit; at n replicas the mean differs by O(1/n). The system starts empty, so
    # the first tenth of the run (11 service times), and for d = 1 more, is the time to fill.
    settled = stays(run)[len(trace) // 4 :]
    agree(settled, expected, within=0.1, bias=0.01)


def test_power_of_two_choices_at_high_load_follows_the_supermarket_model():
    trace = offered(0.9 * 500, 120_000, seed=9)

    run = simulate(trace, fleet(replicas=500, routing=PowerOfTwoChoices(), **QUIET), check=False)

    # Near saturation the mean drifts over tens of service times: few, long batches.
    agree(stays(run)[len(trace) // 5 :], 2.61406, within=0.08, bias=0.01, batches=8)


# --- identities: exact, whatever the policy ------------------------------------------------------------------


class SeenOnArrival(AdmissionPolicy):
    """Notes what a request finds. Class state, because every run uses a fresh policy."""

    def admit(self, request, fleet, now_s):
        FOUND.append(fleet.in_flight)
        return Admit()


FOUND: list[int] = []


@pytest.mark.parametrize("routing", [LeastOutstanding(), Random()], ids=lambda policy: policy.name())
def test_littles_law_holds_exactly_from_empty_to_empty(routing):
    spec = fleet(replicas=3, routing=routing, **QUIET)
    simulation = Simulation(offered(2.4, 3_000, seed=10), spec)
    area, before = 0.0, (0.0, 0)

    def integrate():
        nonlocal area, before
        area += (simulation.runtime.now - before[0]) * before[1]
        before = (simulation.runtime.now, len(simulation.head.router.pending))

    simulation.runtime.after_each = integrate
    run = simulation.run()

    # ∫ L dt, as the router counts its requests, is Σ W, as the client measures them.
    assert area == pytest.approx(stays(run).sum(), rel=1e-9)


def test_arrivals_see_time_averages():
    FOUND.clear()

    simulate(offered(0.6, 60_000, seed=11), fleet(admission=SeenOnArrival(), **QUIET), check=False)

    agree(FOUND, 0.6 / (1.0 - 0.6), within=0.12)
    agree(np.array(FOUND) == 0, 1.0 - 0.6)


def test_utilisation_is_offered_load_over_capacity():
    trace = offered(2.0, 5_000, seed=12)

    run = simulate(trace, fleet(replicas=4, **QUIET))

    work_s = trace.table["work"].to_numpy().sum()
    assert run.summary.utilization == pytest.approx(work_s / (4 * run.summary.duration_s), rel=1e-9)


# --- our own actors ------------------------------------------------------------------------------------------


def test_timeout_batcher_makes_batches_of_one_and_a_poisson_number():
    rate, window_s = 50.0, 0.1
    spec = fleet(
        engine=engine(0.0, base_s=0.01), replicas=2, binding="late",
        batching=Window(max_batch=10_000, window_s=window_s), **QUIET,
    )  # fmt: skip

    run = simulate(offered(rate, 30_000, seed=13), spec, check=False)

    company = run.dispatches["size"].to_numpy() - 1
    agree(company + 1, 1.0 + rate * window_s)
    assert company.var() == pytest.approx(rate * window_s, rel=0.1)
    agree(waits(run), window_s * (1 + rate * window_s / 2) / (1 + rate * window_s))


@pytest.mark.parametrize("size", [2, 8])
def test_size_batcher_delays_by_half_the_time_the_others_take_to_come(size):
    rate = 50.0
    spec = fleet(
        engine=engine(0.0, base_s=1e-6), binding="late",
        batching=Window(max_batch=size, window_s=1e6), **QUIET,
    )  # fmt: skip

    run = simulate(offered(rate, 24_000, seed=14), spec, check=False)

    assert set(run.dispatches["size"].to_pylist()) == {size}
    agree(waits(run), (size - 1) / (2 * rate))


def watched(given_faults, *, replicas, until_s, **changes):
    """A fleet without requests, of which replicas go wrong; (time, replica) of the first failed verdict on each."""
    spec = fleet(
        replicas=replicas, report_interval_s=1e3, control_interval_s=1e3, failed_grace_s=1e6,
        probe_interval_s=1.0, probe_timeout_s=1e-6, **changes,
    )  # fmt: skip
    run = simulate(
        arrivals(2 * until_s), spec, faults=FaultTrace(faults=tuple(given_faults)), until_s=until_s, seed=15
    )
    failed: dict[str, float] = {}
    for row in decisions(run, "health", "failed"):
        failed.setdefault(row["subject"], row["time_s"])
    return failed


@pytest.mark.parametrize("kind", ["hang", "partition"])
@pytest.mark.parametrize("misses", [1, 3])
def test_a_silent_death_is_detected_within_the_last_of_k_periods(kind, misses):
    replicas = 300
    died = 5.0 + np.random.default_rng(16).random(replicas)
    given_faults = [Fault(at_s=at, kind=kind, replica=f"replica/{n}") for n, at in enumerate(died.tolist())]

    failed = watched(
        given_faults, replicas=replicas, until_s=12.0, health=ConsecutiveFailures(failures=misses)
    )

    delays = np.array([failed[f"replica/{n}"] for n in range(replicas)]) - died
    low, high = misses - 1.0, float(misses)
    assert low < delays.min()
    assert delays.max() <= high + 1e-5
    assert stats.kstest(delays, stats.uniform(low, 1.0).cdf).pvalue > 0.01
    half = stats.norm.ppf(0.995) * np.sqrt(1 / 12 / replicas)
    assert abs(delays.mean() - (misses - 0.5)) <= half


def test_false_alarms_come_as_often_as_runs_of_lost_probes():
    replicas, misses, one_way = 300, 2, 0.2
    lost = 1.0 - (1.0 - one_way) ** 2  # the question or the answer
    given_faults = [
        Fault(at_s=0.5, kind="drop", replica=f"replica/{n}", probability=one_way) for n in range(replicas)
    ]

    failed = watched(
        given_faults, replicas=replicas, until_s=150.0, health=ConsecutiveFailures(failures=misses)
    )

    probes = np.round([failed[f"replica/{n}"] for n in range(replicas)])
    expected = (1.0 - lost**misses) / ((1.0 - lost) * lost**misses)
    half = stats.t.ppf(0.995, replicas - 1) * probes.std(ddof=1) / np.sqrt(replicas)
    assert half < 0.2 * expected
    assert abs(probes.mean() - expected) <= half


def test_no_batching_and_a_batch_of_one_are_the_same_queue():
    trace = offered(0.5, 2_000, seed=17)

    alone = simulate(trace, fleet(batching=NoBatching(), **QUIET))
    window = simulate(trace, fleet(batching=Window(max_batch=1), **QUIET))

    assert stays(alone).tolist() == stays(window).tolist()
